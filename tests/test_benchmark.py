"""The benchmark measures what it says: the textbook gives the package's maps, and the FLOPs are those torch counts."""

from __future__ import annotations

import json
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
from tests.conftest import ROOT, relative_difference
from tests.tiny import DEEP, SMALL, make_batch, make_model, make_pairs


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


@pytest.mark.parametrize("size", [SMALL, DEEP])
@pytest.mark.parametrize("layer", [None, -1, 0])
def test_the_formula_counts_what_torch_counts(size: dict[str, int], layer: int | None) -> None:
    from arithmetic import tower_flops

    model = make_model("clip", **size)
    encoder = Encoder(model)
    cut = {"layer": layer}
    settings = BottleneckSettings().override({"steps": 3, "noise_samples": 4, "image": cut, "text": cut})
    made = Explainer(encoder, resolve(settings, encoder))
    batch = make_batch(model, make_pairs(model, [5]))
    with made.at_work(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        made(batch, made.optimizer())
    configs = {"image": model.config.vision_config, "text": model.config.text_config}
    tokens = {"image": encoder.towers["image"].max_tokens, "text": 7}
    layers = {m: made.settings.tower(m).layer for m in MODALITIES}
    formula = sum(tower_flops(configs[m], 24, tokens[m], layers[m], settings) for m in MODALITIES)
    assert abs(formula / counter.get_total_flops() - 1) < 0.01


def test_the_textbook_gives_the_packages_maps() -> None:
    from textbook import explain_textbook

    model = make_model("clip")
    (pair,) = make_pairs(model, [5])
    encoder = Encoder(model)
    made = Explainer(encoder, resolve(BottleneckSettings(steps=4, noise_samples=3), encoder))
    with made.at_work():
        (result,) = made(make_batch(model, [pair]), made.optimizer())
    run = explain_textbook(model, pair.pixels[None], torch.tensor([pair.ids]), made.settings)
    for found, expected in zip(run.saliency, (result.image_saliency.ravel(), result.text_saliency), strict=True):
        assert relative_difference(found, expected) < 1e-4
    assert [len(times) for times in run.times] == [4, 4]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_page_shows_the_committed_numbers() -> None:
    import ablation
    import benchmark_report
    from arithmetic import FORMULA

    page = (ROOT / "docs" / "performance.md").read_text()
    assert FORMULA in page
    for name, report in (("benchmark", benchmark_report), ("ablation", ablation)):
        file = ROOT / "docs" / f"{name}.json"
        assert report.render(json.loads(file.read_text())) in page, f"python scripts/{name}.py --render {file}"


@pytest.mark.slow
def test_the_quick_benchmark_runs(tmp_path: Path) -> None:
    command = [sys.executable, "scripts/benchmark.py", "--quick", "--json", str(tmp_path / "b.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["textbook", *["float32", "bfloat16"] * 2]
    assert rows[0]["max_difference"] < 1e-4
    assert min(row["pearson"] for row in rows if row["pearson"] is not None) > 0.999
    assert "| ViT-B/32 | float32 | 8 |" in done.stdout
