"""``m2ib-fit maps-to-masks``: the masks of a run, as PNG files and as COCO annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from m2ib_lightning import load_attributions
from m2ib_lightning.cli import main as fit
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.segmentation import RegionOptions, segment
from m2ib_lightning.run.directory import heatmap_name
from m2ib_lightning.run.parts import to_record_batch
from tests.results.test_row_form import assert_same_row


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that explained three scenes."""
    folder = tmp_path_factory.mktemp("regions") / "run"
    keys = ["data.limit=3", "bottleneck.steps=3", "bottleneck.noise_samples=2", "output.heatmaps=0"]
    assert fit([*keys, "trainer.enable_progress_bar=false", f"output_dir={folder}"]) == 0
    return folder


def maps_to_masks(words: list[str]) -> int:
    """Run the subcommand; return its exit status."""
    return fit(["maps-to-masks", *words])


def with_rows(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Make a run directory with these rows."""
    (folder / "attributions").mkdir(parents=True)
    table = pa.Table.from_batches([to_record_batch(rows)])
    pq.write_table(table, folder / "attributions" / "part-0-0-0.parquet")
    return folder


def test_the_rows_of_a_run_become_results(run: Path) -> None:
    for row in load_attributions(run):
        back = Attribution.from_row(row)
        assert_same_row(back.to_row(), row)
        assert back.image_heatmap.shape == (64, 64)
        assert back.image is not None
        assert back.image.loss is not None
        assert len(back.image.loss) == 3
        assert back.image.information is not None
        assert len(back.image.information) == 1


def test_the_masks_are_readable_by_coco(run: Path, tmp_path: Path, capsys: Any) -> None:
    assert maps_to_masks([str(run), "--out", str(tmp_path / "out"), "--threshold", "fixed", "--value", "0.3"]) == 0
    assert "3 masks (0 of them empty) and masks.coco.json" in capsys.readouterr().out
    coco = COCO(tmp_path / "out" / "masks.coco.json")
    assert [image["key"] for image in coco.dataset["images"]] == ["scenes-0:0", "scenes-0:1", "scenes-0:2"]
    assert [category["name"] for category in coco.dataset["categories"]] == ["explained"]
    rows = load_attributions(run).to_list()
    for image, row in zip(coco.dataset["images"], rows, strict=True):
        heatmap = Attribution.from_row(row).image_heatmap
        with Image.open(tmp_path / "out" / heatmap_name(row["id"], row["key"])) as file:
            mask = np.asarray(file)
        assert set(np.unique(mask)) == {0, 255}
        np.testing.assert_array_equal(mask > 0, heatmap >= np.float32(0.3))
        assert (image["file_name"], image["mask_name"]) == (row["image"], heatmap_name(row["id"], row["key"]))
        assert (image["height"], image["width"]) == mask.shape
        annotations = coco.imgToAnns[image["id"]]
        np.testing.assert_array_equal(sum(coco.annToMask(a) for a in annotations), mask > 0)
        for annotation in annotations:
            part = coco.annToMask(annotation).astype(bool)
            assert annotation["caption"] == row["caption"]
            assert annotation["area"] == part.sum()
            assert annotation["bbox"] == coco_masks.toBbox(coco.annToRLE(annotation)).tolist()
            assert annotation["score"] == pytest.approx(heatmap[part].mean())
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"masks.coco.json", *(image["mask_name"] for image in coco.dataset["images"])}


def test_failed_and_blank_rows_are_counted_and_hostile_ids_stay_in_the_folder(
    run: Path, tmp_path: Path, capsys: Any
) -> None:
    row = load_attributions(run)[0]
    ids = ["../../x", "/etc/passwd", "..", "a\0b", "C:\\x", "x" * 5000, 'quote "\n', ""]
    rows = [row | {"key": f"h:{n}", "id": identity, "caption": 'a "\\\n☃'} for n, identity in enumerate(ids)]
    rows += [row | {"key": "h:90", "id": "blank", "image_saliency": [1.0] * len(row["image_saliency"])}]
    rows += [{"key": "h:91", "id": "failed", "error": "not an image"}]
    folder = tmp_path / "a" / "b" / "c"
    copy = with_rows(folder / "run", rows)
    before = {path for path in tmp_path.rglob("*") if folder / "out" not in path.parents}
    truth = tmp_path / "a" / "truth"
    truth.mkdir()
    Image.new("L", (64, 64), 255).save(tmp_path / "x.png")  # where ../../x.png of the truth would be
    command = [str(copy), "--out", str(folder / "out"), "--truth", str(truth)]
    assert maps_to_masks(command) == 0
    after = {path for path in tmp_path.rglob("*") if folder / "out" not in path.parents}
    assert after - before == {folder / "out", truth, tmp_path / "x.png"}
    printed = capsys.readouterr().out
    assert "9 masks (1 of them empty)" in printed
    assert "1 pairs skipped: they failed" in printed
    assert "9 without a truth" in printed
    written = json.loads((folder / "out" / "masks.coco.json").read_text())
    assert [image["pair_id"] for image in written["images"]] == [*ids, "blank"]
    assert {annotation["caption"] for annotation in written["annotations"]} == {'a "\\\n☃'}
    assert len(list((folder / "out").glob("*.png"))) == 9


def test_masks_are_compared_with_the_truth(run: Path, tmp_path: Path, capsys: Any) -> None:
    first = load_attributions(run)[0]
    rows = [first | {"key": f"t:{n}", "id": f"pair {n}"} for n in range(6)]
    copy = with_rows(tmp_path / "run", rows)
    truth = tmp_path / "truth"
    truth.mkdir()
    mask = segment(Attribution.from_row(first).saliency_at(64, 64), RegionOptions("fixed", 0.5)).mask
    image = Image.fromarray(mask).convert("L")
    image.save(truth / heatmap_name("pair 0", "t:0"))
    Image.fromarray(~mask).convert("L").save(truth / "pair 0.png")  # the name with the hash has precedence
    Image.fromarray(~mask).convert("L").save(truth / "pair 1.png")
    image.resize((128, 128), Image.Resampling.NEAREST).save(truth / "pair 2.png")
    Image.new("L", (64, 64)).save(truth / "pair 3.png")
    (truth / "pair 4.png").write_bytes(b"no picture")
    command = [str(copy), "--threshold", "fixed", "--truth", str(truth)]
    assert maps_to_masks(command) == 0
    out, warned = capsys.readouterr()
    lines = out.splitlines()
    assert lines[:3] == [
        f"dice {score:.4f}  iou {score:.4f}  {heatmap_name(f'pair {n}', f't:{n}')}" for n, score in enumerate([1, 0, 1])
    ]
    assert lines[3] == "dice 0.6667  iou 0.6667  mean of 3 pairs"
    assert "1 with an empty truth (nothing in it is 128 or lighter)" in lines
    assert "1 with a truth that can't be read" in lines
    assert "1 without a truth" in lines
    assert "warning: pair 2.png has another size than its picture: resized" in warned
    assert "warning: left out: the mask: " in warned
    assert (copy / "masks" / "masks.coco.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/none"], "is no run directory of task=attribute"),
        (["{run}", "--truth", "{tmp}/none"], "--truth must be a folder of PNG masks"),
        (["{run}", "--smooth", "-1"], "smooth must be 0 or more pixels"),
        (["{run}", "--threshold", "fixed", "--value", "2"], "value must be above 0 and at most 1, got 2.0"),
        (["{run}", "--out", "{tmp}/file"], "could not make the folder of the masks"),
    ],
)
def test_bad_arguments_are_named(run: Path, tmp_path: Path, capsys: Any, arguments: list[str], message: str) -> None:
    (tmp_path / "file").write_text("")
    assert maps_to_masks([argument.format(run=run, tmp=tmp_path) for argument in arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (run / "masks").exists()


def test_a_value_without_its_threshold_is_refused(run: Path, capsys: Any) -> None:
    assert maps_to_masks([str(run), "--value", "0.4"]) == 2
    assert "--value is for --threshold fixed and energy; otsu finds its own" in capsys.readouterr().err
