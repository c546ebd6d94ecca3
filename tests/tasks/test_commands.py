"""The subcommands: what they print and write, their exit status, and that a mistake names what is right."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from m2ib_lightning import load_attributions
from m2ib_lightning.cli import COMMANDS, MODULES, help_text, main
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.run_lengths import from_rle
from m2ib_lightning.results.segmentation import RegionOptions, segment
from m2ib_lightning.run.differences import differences
from m2ib_lightning.run.directory import heatmap_name
from m2ib_lightning.tasks import commands
from tests.run.pages import PageReader

Printed = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes, explained in two steps."""
    folder = tmp_path_factory.mktemp("commands") / "run"
    steps = ["bottleneck.steps=2", "bottleneck.noise_samples=2", "data.num_workers=0"]
    output = [f"output_dir={folder}", "output.heatmaps=1", "output.tensorboard_images=0"]
    assert main(["data.limit=3", *steps, *output, "trainer.accelerator=cpu", "trainer.enable_progress_bar=false"]) == 0
    return folder


@pytest.fixture
def changed(run: Path, tmp_path: Path) -> Path:
    """The same run with one number changed by 1e-3, and its last row lost."""
    copy = tmp_path / "changed"
    shutil.copytree(run, copy)
    (part,) = (copy / "attributions").glob("*.parquet")
    table = pq.read_table(part)
    similarity = np.asarray(table["similarity"], np.float32) + np.array([1e-3, 0, 0], np.float32)
    column = table.schema.get_field_index("similarity")
    pq.write_table(table.set_column(column, table.schema.field(column), [similarity]).slice(0, 2), part)
    return copy


def test_every_subcommand_is_listed_and_has_its_module() -> None:
    modules = {module.name for module in iter_modules(commands.__path__)}
    mains = {name for name in modules if hasattr(import_module(f"{commands.__name__}.{name}"), "main")}
    assert mains == {MODULES.get(name, name.replace("-", "_")) for name in COMMANDS}
    for name, line in COMMANDS.items():
        assert f"  {name}  " in help_text()
        assert line in help_text()


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name: str, capsys: Printed) -> None:
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: m2ib-fit {name} ")


def test_diff_of_a_run_with_itself_prints_nothing(run: Path, capsys: Printed) -> None:
    assert main(["diff", str(run), str(run)]) == 0
    assert capsys.readouterr().out == ""


def test_diff_prints_each_difference(run: Path, changed: Path, capsys: Printed) -> None:
    assert main(["diff", str(run), str(changed)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == differences(run, changed)
    assert [line.split()[0] for line in lines] == ["scenes-0:2", "scenes-0:0:"]
    assert main(["diff", str(run), str(changed), "--tolerance", "1e-2"]) == 1
    assert capsys.readouterr().out == f"scenes-0:2 is only in {run}\n"


def test_plan_multiplies_what_the_run_measured(run: Path, capsys: Printed) -> None:
    assert main(["plan", str(run), "--pairs", "10_000_000", "--ranks", "64", "--rate", "0.5"]) == 0
    lines = [line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    values = {name.strip(): float(value.replace(",", "")) for name, value in lines}
    row = sum(part.stat().st_size for part in (run / "attributions").glob("*.parquet")) / 3
    (picture,) = (run / "heatmaps").glob("*.png")
    assert values == {
        "pairs a second and rank": 0.5,
        "pairs a second": 32.0,
        "hours": 86.81,  # 156,250 pairs of a rank
        "bytes a row": pytest.approx(row, abs=0.5),
        "gigabytes of table": pytest.approx(row / 100, abs=0.005),
        "files of table": 33_344,  # 300 rows each: 600 seconds
        "kilobytes a picture": pytest.approx(picture.stat().st_size / 1e3, abs=0.5),
    }


def test_plan_takes_the_rate_of_the_run(run: Path, capsys: Printed) -> None:
    assert main(["plan", str(run), "--pairs", "100"]) == 0
    rate = json.loads((run / "summary.json").read_text())["pairs_per_second"]
    assert f"  {rate:.2f}\n" in capsys.readouterr().out


def test_maps_to_masks_writes_the_regions_and_compares_them(run: Path, tmp_path: Path, capsys: Printed) -> None:
    out = tmp_path / "masks"
    command = ["maps-to-masks", str(run), "--out", str(out), "--threshold", "fixed", "--value", "0.4"]
    assert main(command) == 0
    assert capsys.readouterr().out == f"3 masks (0 of them empty) and masks.coco.json in {out}\n"
    coco = json.loads((out / "masks.coco.json").read_text())
    for image, row in zip(coco["images"], load_attributions(run), strict=True):
        expected = segment(Attribution.from_row(row).saliency_at(64, 64), RegionOptions("fixed", 0.4)).mask
        assert image["mask_name"] == heatmap_name(row["id"], row["key"])
        with Image.open(out / image["mask_name"]) as mask:
            np.testing.assert_array_equal(np.asarray(mask), expected * 255)
        regions = [from_rle(a["segmentation"]) for a in coco["annotations"] if a["image_id"] == image["id"]]
        np.testing.assert_array_equal(np.any(regions, axis=0), expected)
    assert main([*command[:2], "--out", str(tmp_path / "again"), *command[4:], "--truth", str(out)]) == 0
    assert "dice 1.0000  iou 1.0000  mean of 3 pairs\n" in capsys.readouterr().out


def test_report_writes_the_page_of_an_unfinished_run(run: Path, tmp_path: Path, capsys: Printed) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    for name in ("report.html", "summary.json"):
        (copy / name).unlink()
    assert main(["report", str(copy)]) == 0
    assert capsys.readouterr().out == f"page         {copy / 'report.html'}\n"
    written, again = PageReader(run / "report.html"), PageReader(copy / "report.html")
    assert again.rows == written.rows
    assert again.head["summary"] == written.head["summary"]
    assert sum("thumb" in row for row in again.rows) == 1  # output.heatmaps=1
    assert main(["report", str(copy), "--pairs", "2"]) == 0
    assert PageReader(copy / "report.html").head["shown"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["diff", "{run}"], "m2ib-fit diff: the following arguments are required: OTHER"),
        (["diff", "{run}", "{tmp}"], "is no run directory of task=attribute: it has no folder 'attributions'"),
        (["diff", "{run}", "{run}", "--tolerence=1"], "unknown argument '--tolerence'. Did you mean '--tolerance'?"),
        (["diff", "{run}", "{run}", "--tolerance", "nan"], "--tolerance must be a number of at least 0, got nan"),
        (["diff", "{run}", "{run}", "{run}"], "unknown argument '"),
        (["plan", "{run}"], "the following arguments are required: --pairs. m2ib-fit plan --help lists"),
        (["plan", "{tmp}/none", "--pairs", "3"], "is no finished run: it has no summary.json"),
        (["plan", "{run}", "--pairs", "many"], "argument --pairs: invalid int value: 'many'"),
        (["plan", "{run}", "--pairs", "0"], "pairs must be at least 1, got 0"),
        (["plan", "{run}", "--pairs", "3", "--ranks", "-1"], "ranks must be at least 1, got -1"),
        (["plan", "{run}", "--pairs", "3", "--rate", "0"], "rate must be above 0, got 0.0"),
        (["maps-to-masks", "{tmp}/none"], "is no run directory of task=attribute"),
        (["maps-to-masks", "{run}", "--threshold", "otsuu"], "got 'otsuu'. Did you mean 'otsu'?"),
        (["maps-to-masks", "{run}", "--treshold", "otsu"], "'--treshold'. Did you mean '--threshold'?"),
        (["report", "{tmp}"], "is no run directory: it has neither a folder"),
        (["report", "{tmp}", "{run}"], "has no maps to lay others beside"),
        (["report", "{run}", "{tmp}"], "has no maps to lay beside others"),
        (["report", "{run}", "--pairs", "0"], "--pairs must be at least 1, got 0"),
        (["report", "{run}", "--pars", "3"], "unknown argument '--pars'. Did you mean '--pairs'?"),
        (["map-to-masks", "{run}"], "got 'map-to-masks'. Did you mean 'maps-to-masks'?"),
        (["seed=1", "plan"], "the subcommand 'plan' must be the first word of the command"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(words: list[str], message: str, run: Path, tmp_path: Path, capsys: Printed) -> None:
    before = sorted(run.rglob("*"))
    assert main([word.format(run=run, tmp=tmp_path) for word in words]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert printed.out == ""
    assert sorted(run.rglob("*")) == before


def test_a_run_without_pairs_gives_no_rate(run: Path, tmp_path: Path, capsys: Printed) -> None:
    shutil.copytree(run, tmp_path / "empty")
    file = tmp_path / "empty" / "summary.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pairs_done": 0, "pairs_per_second": None}))
    assert main(["plan", str(tmp_path / "empty"), "--pairs", "3"]) == 2
    assert "has no pairs to measure a rate from" in capsys.readouterr().err
