"""The benchmark measures what it claims: the textbook gives the package's maps, the FLOPs are those torch counts."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from m2ib_lightning.config import MODALITIES
from m2ib_lightning.encoder.towers import Encoder
from m2ib_lightning.m2ib.explainer import Explainer, resolve
from m2ib_lightning.m2ib.settings import BottleneckSettings
from tests import ROOT
from tests.equality import relative_difference
from tests.tiny import DEEP, SMALL, make_batch, make_model, make_pairs

STANDALONE = sorted([*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "scripts").glob("**/*.py")])


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the benchmarks and experiments importable by name."""
    for folder in ("benchmarks", "scripts", "scripts/experiments"):
        monkeypatch.syspath_prepend(str(ROOT / folder))


@pytest.mark.parametrize(
    ("size", "layer"),
    [
        *((SMALL, layer) for layer in (None, -1, 0)),
        (DEEP, None),
        *(pytest.param(DEEP, layer, marks=pytest.mark.slow) for layer in (-1, 0)),
    ],
)
def test_the_formula_counts_what_torch_counts(size: dict[str, int], layer: int | None) -> None:
    from arithmetic import tower_flops

    model = make_model("clip", **size)
    encoder = Encoder(model)
    cut = {"layer": layer}
    settings = BottleneckSettings().override({"steps": 3, "noise_samples": 4, "image": cut, "text": cut})
    explainer = Explainer(encoder, resolve(settings, encoder))
    batch = make_batch(model, make_pairs(model, [5]))
    with explainer.at_work(), sdpa_kernel(SDPBackend.MATH):
        explainer(batch, explainer.optimizer())  # the first batch is also compared with the model
        with FlopCounterMode(display=False) as counter:
            explainer(batch, explainer.optimizer())
    configs = {"image": model.config.vision_config, "text": model.config.text_config}
    tokens = {"image": encoder.towers["image"].max_tokens, "text": 7}
    formula = 0
    for modality in MODALITIES:
        resolved = explainer.settings.tower(modality).layer
        assert resolved is not None
        formula += tower_flops(configs[modality], 24, tokens[modality], resolved, settings)
    assert abs(formula / counter.get_total_flops() - 1) < 0.01


def test_the_textbook_gives_the_packages_maps() -> None:
    from textbook import explain_textbook

    model = make_model("clip")
    (pair,) = make_pairs(model, [5])
    encoder = Encoder(model)
    explainer = Explainer(encoder, resolve(BottleneckSettings(steps=4, noise_samples=3), encoder))
    with explainer.at_work():
        (result,) = explainer(make_batch(model, [pair]), explainer.optimizer())
    run = explain_textbook(model, pair.pixels[None], torch.tensor([pair.ids]), explainer.settings)
    for saliency, expected in zip(run.saliency, (result.image_saliency.ravel(), result.text_saliency), strict=True):
        assert relative_difference(saliency, expected) < 1e-4
    assert [len(times) for times in run.times] == [4, 4]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_page_shows_the_committed_numbers() -> None:
    import ablation
    import benchmark_report
    from arithmetic import FORMULA

    page = (ROOT / "docs" / "performance.md").read_text()
    assert FORMULA in page
    for file, script, report in (
        ("benchmark.json", "benchmarks/benchmark.py", benchmark_report),
        ("ablation.json", "scripts/experiments/ablation.py", ablation),
    ):
        numbers = json.loads((ROOT / "docs" / file).read_text())
        assert report.render(numbers) in page, f"python {script} --render docs/{file}"


def test_a_section_of_a_document_is_replaced(tmp_path: Path) -> None:
    from sections import markdown_table, write_section

    document = tmp_path / "page.md"
    document.write_text("a\n<!-- t:begin -->\nold\n<!-- t:end -->\nb\n")
    write_section(document, "t", markdown_table(["x", "y"], [["1", r"\2"]]))
    table = "| x | y |\n| --- | --- |\n| 1 | \\2 |"
    assert document.read_text() == f"a\n<!-- t:begin -->\n\n{table}\n\n<!-- t:end -->\nb\n"
    with pytest.raises(SystemExit, match="has no marks <!-- u:begin -->"):
        write_section(document, "u", "text")


def test_every_usage_line_names_its_own_file() -> None:
    for path in STANDALONE:
        text = path.read_text()
        if "ArgumentParser" in text:
            assert f"python {path.relative_to(ROOT)}" in text, path


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in STANDALONE if "ArgumentParser" in path.read_text()], ids=str)
def test_it_starts_from_the_root(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, with what Python gives a script: its own folder first on the path, and its arguments."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(path.parent))
    monkeypatch.setattr(sys, "argv", [str(path.relative_to(ROOT)), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr()
    assert ended.value.code == 0, printed.err
    assert printed.out.startswith("usage: ")


@pytest.mark.slow
def test_the_quick_benchmark_runs(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/benchmark.py", "--quick", "--json", str(tmp_path / "b.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["textbook", *["float32", "bfloat16"] * 2]
    assert rows[0]["max_difference"] < 1e-4
    assert min(row["pearson"] for row in rows if row["pearson"] is not None) > 0.999
    assert "| ViT-B/32 | float32 | 8 |" in done.stdout
