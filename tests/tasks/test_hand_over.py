"""``m2ib-fit maps-to-masks --format ...``: the masks of a run in the forms that other tools read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools.coco import COCO

from m2ib_lightning.cli import main as fit
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.segmentation import RegionOptions, Regions, segment
from m2ib_lightning.run.table import load_attributions
from tests.tasks.four_pairs import SIZE, save_run, stems


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run over four pairs, one more failed."""
    return save_run(tmp_path)


def hand_over(run: Path, *words: str) -> Path:
    """Run the subcommand; return its folder."""
    assert fit(["maps-to-masks", str(run), *words]) == 0
    return run / "masks"


def regions_of(run: Path) -> Regions:
    """The regions of every pair of the run, at half of the heatmap."""
    return segment(Attribution.from_row(load_attributions(run)[0]).saliency_at(*SIZE), RegionOptions("fixed", 0.5))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_number_is_a_threshold_of_the_heatmap(run: Path, capsys: Any) -> None:
    out = hand_over(run, "--threshold", "0.5")
    assert capsys.readouterr().out.startswith(f"4 masks (0 of them empty) and masks.coco.json in {out}\n")
    heatmap = Attribution.from_row(load_attributions(run)[0]).image_heatmap
    with Image.open(out / f"{stems()[0]}.png") as mask:
        np.testing.assert_array_equal(np.asarray(mask) > 0, heatmap >= 0.5)
    assert len(regions_of(run).areas) == 2


def test_yolo(run: Path) -> None:
    out = hand_over(run, "--threshold", "0.5", "--format", "yolo") / "yolo"
    assert yaml.safe_load((out / "data.yaml").read_text()) == {
        "train": "images",
        "val": "images",
        "names": {0: "explained"},
    }
    assert sorted(path.stem for path in (out / "labels").iterdir()) == sorted(stems())
    assert list((out / "images").iterdir()) == []
    first = lines(out / "pictures.jsonl")[0]
    assert (first["labels"], first["image"]) == (f"labels/{stems()[0]}.txt", "left.png")
    boxes = []
    for line in (out / "labels" / f"{stems()[1]}.txt").read_text().splitlines():
        number, *shares = line.split()
        assert number == "0"
        x, y, width, height = np.array(shares, float) * (*SIZE, *SIZE)
        boxes.append([round(x - width / 2, 3), round(y - height / 2, 3), round(width, 3), round(height, 3)])
    assert boxes == regions_of(run).boxes
    assert not (out.parent / "masks.coco.json").exists()


def test_prompts_are_in_pixels_and_ordered_by_saliency(run: Path) -> None:
    out = hand_over(run, "--threshold", "0.5", "--format", "prompts")
    first, *_ = rows = lines(out / "prompts.jsonl")
    assert [row["key"] for row in rows] == [f"t.csv:{n}" for n in range(4)]
    assert (first["image"], first["size"], first["labels"]) == ("left.png", [48, 32], [1, 1])
    assert "picture" not in first
    mask = regions_of(run).mask
    ys, xs = np.nonzero(mask)
    assert first["box"] == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    heatmap = Attribution.from_row(load_attributions(run)[0]).image_heatmap
    heights = [heatmap[y, x] for x, y in first["points"]]
    assert heights[0] == 1.0
    assert first["points"][0] == [1, 1]  # the middle of the corner's plateau, not its first pixel
    assert 0.5 < heights[1] < 1.0
    assert regions_of(run).areas[0] > regions_of(run).areas[1]  # the largest region is not the highest
    assert all(mask[y, x] for x, y in first["points"])


def test_copies_are_upright_and_stay_in_the_folder(run: Path, capsys: Any) -> None:
    before = {path for path in run.parent.rglob("*")}
    out = hand_over(run, "--format", "png,coco,yolo,prompts,datasets,fiftyone", "--copy-pictures")
    assert {path for path in run.parent.rglob("*") if out not in (path, *path.parents)} == before
    assert "1 pictures have no file here" in capsys.readouterr().out
    names = [row["picture"] for row in lines(out / "prompts.jsonl")]
    left, again, rotated, _ = stems()
    assert names == [f"pictures/{left}.png", f"pictures/{again}.png", f"pictures/{rotated}.png", None]
    for name in names[:3]:
        with Image.open(out / name) as copy:
            assert copy.size == SIZE
    assert (out / names[0]).read_bytes() == (run.parent / "data" / "left.png").read_bytes()
    assert {path.name for path in (out / "yolo" / "images").iterdir()} == {Path(name).name for name in names[:3]}


@pytest.mark.parametrize("copies", [False, True])
def test_datasets_reads_the_folder(run: Path, copies: bool, tmp_path: Path) -> None:
    folder = hand_over(run, "--format", "datasets", *["--copy-pictures"] * copies) / "datasets"
    table = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert table["caption"] == [f"caption {n}" for n in range(4)]
    assert table[0]["picture"] == "left.png"
    assert table[0]["mask"].size == SIZE
    assert len(table[0]["boxes"][0]) == 4
    assert ("image" in table.column_names) == copies
    if copies:
        assert table[2]["image"].size == SIZE
        assert table[3]["image"] is None


@pytest.mark.parametrize("copies", [False, True])
def test_fiftyone_has_an_image_for_each_picture(run: Path, copies: bool, capsys: Any) -> None:
    folder = hand_over(run, "--format", "fiftyone", "--threshold", "0.5", *["--copy-pictures"] * copies) / "fiftyone"
    assert "They are not in fiftyone/" in capsys.readouterr().out
    coco = COCO(folder / "labels.json")
    images = coco.dataset["images"]
    assert [(image["width"], image["height"]) for image in images] == [SIZE, SIZE]
    for image in images:
        assert (folder / "data" / image["file_name"]).is_file()
        assert Path(image["file_name"]).is_absolute() != copies
    shared = coco.imgToAnns[images[0]["id"]]
    assert [annotation["key"] for annotation in shared] == ["t.csv:0"] * 2 + ["t.csv:1"] * 2
    np.testing.assert_array_equal(sum(coco.annToMask(a) for a in shared[:2]), regions_of(run).mask)


def test_one_pair_has_a_folder_of_its_own(run: Path) -> None:
    assert fit(["maps-to-masks", str(run), "--key", "t.csv:1"]) == 0
    folder = run / f"masks-{stems()[1]}"
    assert {path.name for path in folder.iterdir()} == {"masks.coco.json", f"{stems()[1]}.png"}
    assert fit(["maps-to-masks", str(run), "--id", "../../rotated", "--out", str(run / "one")]) == 0
    assert {path.name for path in (run / "one").iterdir()} == {"masks.coco.json", f"{stems()[2]}.png"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--key", "t.csv:11"], "the run has no pair whose key is 't.csv:11'. Did you mean 't.csv:1'?"),
        (["--id", "lefd"], "no pair whose id is 'lefd'. Did you mean 'left'? The first one is 'left'."),
        (["--key", "a", "--id", "b"], "not allowed with argument"),
        (["--format", "png,yola"], "datasets, fiftyone, with commas, got 'yola'. Did you mean 'yolo'?"),
        (["--threshold", "1.5"], "or a number above 0 and at most 1, got '1.5'"),
        (["--threshold", "nan"], "or a number above 0 and at most 1, got 'nan'"),
        (["--threshold", "0.5", "--value", "0.4"], "--threshold is a number already: give it without --value"),
    ],
)
def test_wrong_words_are_named(run: Path, words: list[str], message: str, capsys: Any) -> None:
    assert fit(["maps-to-masks", str(run), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (run / "masks").exists()
