"""From maps to masks: thresholds against slow definitions, regions, run lengths, rows back to results, the script."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from m2ib_lightning import load_attributions
from m2ib_lightning.cli import main as fit
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.pairs.pair import Pair
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.run_lengths import dice, from_rle, iou, to_rle
from m2ib_lightning.results.segmentation import RegionOptions, Regions, segment
from m2ib_lightning.results.thresholds import BINS, THRESHOLDS, energy, fixed, otsu, two_means
from m2ib_lightning.run.directory import heatmap_name
from m2ib_lightning.run.parts import SCHEMA, to_record_batch
from tests.results.test_drawing import make_result

MASKS = arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)))
MAPS = arrays(np.float64, (6, 7), elements=st.integers(-20, 20).map(lambda n: n / 4)).filter(
    lambda m: m.min() < m.max()
)


def smooth_map(seed: int, height: int = 40, width: int = 56) -> NDArray[np.float32]:
    """A map like a model's: a small grid made large."""
    grid = np.random.default_rng(seed).gamma(0.5, 30.0, (5, 7)).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BILINEAR))


# Thresholds


def slow_otsu(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Each of the 255 cuts in turn: the variance between the means of two lists of numbers."""
    low, high = float(values.min()), float(values.max())
    bins = [min(int((float(v) - low) / (high - low) * BINS), BINS - 1) for v in values.ravel()]
    best, cut = -1.0, 0
    for k in range(BINS - 1):
        below, above = ([b for b in bins if (b > k) == side] for side in (False, True))
        if below and above:
            gap = sum(above) / len(above) - sum(below) / len(below)
            between = len(below) * len(above) * gap**2 / len(bins) ** 2
            if between > best * (1 + 1e-12):  # equal but for rounding: the first
                best, cut = between, k
    return np.array([b > cut for b in bins]).reshape(values.shape)


def slow_two_means(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Lloyd's algorithm, a number at a time."""
    numbers = [float(v) for v in values.ravel()]
    means, assigned = [min(numbers), max(numbers)], None
    while True:
        nearer = [abs(v - means[1]) < abs(v - means[0]) for v in numbers]
        if nearer == assigned:
            return np.array(nearer).reshape(values.shape)
        assigned = nearer
        groups = [[v for v, near in zip(numbers, nearer, strict=True) if near == side] for side in (False, True)]
        means = [math.fsum(group) / len(group) for group in groups]


@pytest.mark.parametrize("seed", range(6))
def test_otsu_is_the_best_of_all_cuts(seed: int) -> None:
    values = smooth_map(seed).astype(np.float64)
    np.testing.assert_array_equal(otsu(values), slow_otsu(values))


@pytest.mark.parametrize("seed", range(6))
def test_two_means_is_lloyds_algorithm(seed: int) -> None:
    values = smooth_map(seed).astype(np.float64)
    np.testing.assert_array_equal(two_means(values), slow_two_means(values))


@given(MAPS)
def test_two_means_end_at_means_that_give_the_same_cut(values: NDArray[np.float64]) -> None:
    mask = two_means(values)
    low, high = values[~mask].mean(), values[mask].mean()
    assert values[~mask].max() <= (low + high) / 2 + 1e-9  # a tie may fall either way by rounding of the means
    assert values[mask].min() >= (low + high) / 2 - 1e-9


def test_a_value_just_between_the_means_is_low() -> None:
    np.testing.assert_array_equal(two_means(np.array([0.0, 4.0, 5.0, 5.0, 8.0])), [False, False, True, True, True])


@given(MAPS, st.floats(0.01, 1))
def test_energy_is_the_smallest_level_set_that_holds_the_mass(values: NDArray[np.float64], fraction: float) -> None:
    mask = energy(values, fraction)
    mass, wanted = np.clip(values, 0, None), fraction * np.clip(values, 0, None).sum()
    if not mass.any():
        assert not mask.any()
        return
    assert mass[mask].sum() >= wanted - 1e-9  # sums in another order
    assert values[mask].min() > values[~mask].max(initial=0)  # a level set of positive values
    assert mass[mask & (values > values[mask].min())].sum() < wanted + 1e-9  # a level less is too few


def test_fixed_is_of_the_min_max_map() -> None:
    heatmap = make_result().image_heatmap
    np.testing.assert_array_equal(segment(heatmap, RegionOptions("fixed", 0.3)).mask, heatmap >= np.float32(0.3))
    np.testing.assert_array_equal(fixed(np.array([10.0, 14.0, 15.0, 20.0]), 0.5), [False, False, True, True])


@pytest.mark.parametrize("threshold", ["fixed", "otsu", "two_means"])
def test_scale_and_offset_change_no_mask(threshold: Any) -> None:
    heatmap = np.round(smooth_map(3).astype(np.float64), 3)
    moved = segment(heatmap * 64 + 4, RegionOptions(threshold))
    np.testing.assert_array_equal(moved.mask, segment(heatmap, RegionOptions(threshold)).mask)


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("smooth", [0, 3, 5000])
@pytest.mark.parametrize("value", [0.0, 0.1, -3.0, math.nan])
def test_a_blank_map_has_no_regions(threshold: Any, smooth: float, value: float) -> None:
    regions = segment(np.full((8, 9), value), RegionOptions(threshold, smooth=smooth))
    assert not regions.mask.any()
    assert regions.mask.shape == (8, 9)
    assert (regions.components, regions.boxes, regions.scores, regions.areas) == ([], [], [], [])


def test_a_map_smoothed_flat_has_no_regions() -> None:
    assert not segment(np.arange(72.0).reshape(8, 9), RegionOptions(smooth=3000)).mask.any()


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_what_was_not_seen_is_outside_and_counts_for_nothing(threshold: Any) -> None:
    inner = smooth_map(1).astype(np.float64)
    outer = np.full((60, 70), np.nan)
    outer[10:50, 5:61] = inner
    regions, alone = (segment(m, RegionOptions(threshold)) for m in (outer, inner))
    np.testing.assert_array_equal(regions.mask[10:50, 5:61], alone.mask)
    assert regions.mask.sum() == alone.mask.sum()
    assert regions.scores == pytest.approx(alone.scores)
    blurred = segment(outer, RegionOptions(threshold, smooth=2))
    assert blurred.mask.any()
    assert not blurred.mask[np.isnan(outer)].any()


def test_smoothing_is_a_gaussian_mean() -> None:
    heatmap = np.zeros((41, 41))
    heatmap[20, 20] = 1
    mask = segment(heatmap, RegionOptions("fixed", 0.5, smooth=4)).mask
    rows, columns = np.mgrid[-20:21, -20:21]
    np.testing.assert_array_equal(mask, np.exp(-(rows**2 + columns**2) / (2 * 4**2)) >= 0.5)


@pytest.mark.parametrize("value", [0.2, 0.4, 0.6, 0.8])
def test_smoothing_means_over_what_was_seen(value: float) -> None:
    heatmap = np.full((22, 24), np.nan)
    heatmap[6:16, 6:18] = np.random.default_rng(0).gamma(0.5, 30.0, (10, 12))
    smooth = np.full(heatmap.shape, np.nan)
    for y, x in np.argwhere(~np.isnan(heatmap)):
        near = [(r, c) for r in range(y - 4, y + 5) for c in range(x - 4, x + 5) if not math.isnan(heatmap[r, c])]
        weights = [math.exp(-((r - y) ** 2 + (c - x) ** 2) / 2) for r, c in near]  # cut off at 4 deviations
        smooth[y, x] = sum(w * heatmap[at] for w, at in zip(weights, near, strict=True)) / sum(weights)
    wanted = (smooth - np.nanmin(smooth)) / (np.nanmax(smooth) - np.nanmin(smooth)) >= value  # False for NaN
    np.testing.assert_array_equal(segment(heatmap, RegionOptions("fixed", value, smooth=1)).mask, wanted)


# Regions


def drawn(*lines: str) -> NDArray[np.float64]:
    return np.array([[float(c) if c.isdigit() else 0.0 for c in line] for line in lines])


PICTURE = drawn(
    "9..88..",
    ".9...88",
    ".......",
    "77.8...",
    "77....9",
)


def test_parts_come_largest_first_with_tight_boxes() -> None:
    regions = segment(PICTURE, RegionOptions("fixed", 0.5))
    assert regions.areas == [4, 4, 2, 1, 1]
    assert regions.boxes == [[3, 0, 4, 2], [0, 3, 2, 2], [0, 0, 2, 2], [3, 3, 1, 1], [6, 4, 1, 1]]
    assert regions.scores == [8, 7, 9, 8, 9]
    np.testing.assert_array_equal(regions.mask, PICTURE > 0)


@pytest.mark.parametrize(
    ("options", "areas"),
    [
        ({"connectivity": 4}, [4, 2, 2, 1, 1, 1, 1]),
        ({"keep": "largest"}, [4]),
        ({"min_area": 2}, [4, 4, 2]),
        ({"min_area": 5}, []),
        ({"min_area": 5, "keep": "largest"}, []),
    ],
)
def test_options_choose_the_parts(options: dict[str, Any], areas: list[int]) -> None:
    regions = segment(PICTURE, RegionOptions("fixed", 0.5, **options))
    assert regions.areas == areas
    assert regions.mask.sum() == sum(areas)


@given(MAPS, st.sampled_from(sorted(THRESHOLDS)), st.sampled_from([4, 8]))
def test_parts_make_up_the_mask_and_fill_their_boxes(values: NDArray[Any], threshold: Any, connectivity: Any) -> None:
    regions = segment(values, RegionOptions(threshold, connectivity=connectivity))
    assert_consistent(regions, values)
    assert all(larger >= smaller for larger, smaller in pairwise(regions.areas))


def assert_consistent(regions: Regions, values: NDArray[Any]) -> None:
    total = np.zeros(values.shape, int)
    for part, (x, y, width, height), area, score in zip(
        regions.components, regions.boxes, regions.areas, regions.scores, strict=True
    ):
        rows, columns = np.nonzero(part)
        assert (rows.min(), columns.min()) == (y, x)
        assert (rows.max(), columns.max()) == (y + height - 1, x + width - 1)
        assert part.sum() == area
        assert values[part].mean() == pytest.approx(score)
        total += part
    np.testing.assert_array_equal(total, regions.mask)


# Masks


@given(MASKS)
def test_run_lengths_are_those_of_coco(mask: NDArray[np.bool_]) -> None:
    rle = to_rle(mask)
    assert json.loads(json.dumps(rle)) == rle
    np.testing.assert_array_equal(coco_masks.decode(coco_masks.frPyObjects(rle, *mask.shape)), mask)
    np.testing.assert_array_equal(from_rle(rle), mask)
    assert coco_masks.area(coco_masks.frPyObjects(rle, *mask.shape)) == mask.sum()
    assert all(count > 0 for count in rle["counts"][1:])


def test_dice_and_iou_by_hand() -> None:
    a, b = np.zeros((2, 4, 5), bool)
    assert math.isnan(dice(a, b))
    assert math.isnan(iou(a, b))
    a[1:3, 1:4] = True  # 6
    assert dice(a, b) == iou(a, b) == 0
    b[2:4, 2:5] = True  # 6, of which 2 are shared
    assert dice(a, b) == 2 * 2 / 12
    assert iou(a, b) == 2 / 10
    assert dice(a, a) == iou(a, a) == 1


@given(MASKS)
def test_iou_is_cocos(mask: NDArray[np.bool_]) -> None:
    other = mask[::-1].copy()
    if mask.any():
        one, two = (coco_masks.encode(np.asfortranarray(m.astype(np.uint8))) for m in (mask, other))
        assert iou(mask, other) == pytest.approx(coco_masks.iou([one], [two], [0]).item())


# Bad inputs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": "otsi"}, r"threshold='otsi' is unknown. Did you mean 'otsu'\? There is fixed, otsu, two_means"),
        ({"keep": "biggest"}, "keep must be 'all' or 'largest', got 'biggest'"),
        ({"value": 0}, "value must be above 0 and at most 1, got 0"),
        ({"value": 1.5}, "value must be above 0 and at most 1, got 1.5"),
        ({"value": math.nan}, "value must be above 0 and at most 1, got nan"),
        ({"smooth": -1}, "smooth must be 0 or more pixels, got -1"),
        ({"smooth": math.inf}, "smooth must be 0 or more pixels, got inf"),
        ({"connectivity": 6}, "connectivity must be 4 .* or 8 .*, got 6"),
        ({"min_area": 0}, "min_area must be 1 pixel or more, got 0"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(M2IBError, match=message):
        RegionOptions(**options)


@pytest.mark.parametrize(
    ("heatmap", "message"),
    [
        (np.zeros((1, 4, 4)), r"must be \(H, W\), got shape \(1, 4, 4\): give one map"),
        (np.zeros((0, 4)), r"must be \(H, W\), got shape \(0, 4\)"),
        ([[1.0, math.inf]], "must be finite"),
        ([["a"]], "must be an array .* of numbers"),
        ([[1.0], [1.0, 2.0]], "must be an array .* of numbers"),
    ],
)
def test_bad_heatmaps_are_named(heatmap: Any, message: str) -> None:
    with pytest.raises(M2IBError, match=message):
        segment(heatmap)


def test_bad_masks_are_named() -> None:
    with pytest.raises(M2IBError, match=r"must be of one size, got \(2, 2\) and \(2, 3\)"):
        dice(np.ones((2, 2), bool), np.ones((2, 3), bool))
    with pytest.raises(M2IBError, match=r"must be \(H, W\) of bool, got \(2, 2\) of float64"):
        to_rle(np.ones((2, 2)))
    with pytest.raises(M2IBError, match="add up to 2 x 2"):
        from_rle({"size": [2, 2], "counts": [3]})


def test_without_scipy_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.ndimage", None)
    with pytest.raises(M2IBError, match=r"pip install 'm2ib_lightning\[evaluate\]'"):
        segment(PICTURE)


# Rows back to results


def assert_same_row(row: dict[str, Any], other: dict[str, Any]) -> None:
    """As the table stores them."""
    assert to_record_batch([row]).equals(to_record_batch([other]))


@pytest.mark.parametrize("drop", [(), ("text",), ("curves",)])
def test_a_row_becomes_the_result_again(drop: tuple[str, ...]) -> None:
    result = make_result().drawn_as("x.png")
    if "text" in drop:
        result = replace(result, text=None)
    if "curves" in drop:
        assert result.image is not None
        result = replace(result, image=replace(result.image, loss=None, information=None, similarity=None), text=None)
    back = Attribution.from_row(result.to_row())
    assert_same_row(back.to_row(), result.to_row())
    np.testing.assert_array_equal(back.image_heatmap, result.image_heatmap)
    np.testing.assert_array_equal(back.saliency_at(30, 20), result.saliency_at(30, 20))
    assert back.unit == ("" if "curves" in drop else "nats")
    assert back.final_loss == result.final_loss
    assert (back.text is None) == bool(drop)
    assert (back.tokens, back.pair.token_offsets) == (result.tokens, result.pair.token_offsets)
    assert back.pair.picture is None
    assert back._repr_html_()


def test_a_failed_row_keeps_its_error() -> None:
    row = Attribution(Pair("t:1", "b", "b.png", None), error="no caption").to_row()
    back = Attribution.from_row(dict.fromkeys(SCHEMA.names) | row)
    assert (back.error, back.pair.error, back.pair.caption, back.image) == ("no caption", "no caption", None, None)
    assert_same_row(back.to_row(), row)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": None}, "has 'key' and 'id', this one has no 'key': load that column too"),
        (
            {"image_saliency": None},
            "the row of 't:0' has no error and no 'image_saliency': load it with image_saliency,",
        ),
        ({"crop": None}, "the row of 't:0' has no error and no 'crop'"),
        ({"grid_width": 5}, "the row of 't:0' must have 4 x 5 patches, got 16: it is damaged"),
    ],
)
def test_a_row_without_its_columns_says_which(change: dict[str, Any], message: str) -> None:
    with pytest.raises(M2IBError, match=message):
        Attribution.from_row(make_result().to_row() | change)


# The script


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scenes, explained."""
    folder = tmp_path_factory.mktemp("regions") / "run"
    keys = ["data.limit=3", f"output_dir={folder}", "output.heatmaps=0", "trainer.enable_progress_bar=false"]
    assert fit(keys) == 0
    return folder


@pytest.fixture
def script() -> Any:
    return SimpleNamespace(main=lambda words: fit(["maps-to-masks", *words]))


def with_rows(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """A run directory with those rows."""
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
        assert len(back.image.loss) > 1
        assert back.image.information is not None
        assert len(back.image.information) == 1


def test_the_script_writes_masks_and_what_coco_reads(run: Path, script: Any, tmp_path: Path, capsys: Any) -> None:
    assert script.main([str(run), "--out", str(tmp_path / "out"), "--threshold", "fixed", "--value", "0.3"]) == 0
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


def test_failed_and_blank_rows_are_counted_and_hostile_ids_stay_inside(
    run: Path, script: Any, tmp_path: Path, capsys: Any
) -> None:
    row = load_attributions(run)[0]
    ids = ["../../x", "/etc/passwd", "..", "a\0b", "C:\\x", "x" * 5000, 'quote "\n', ""]
    rows = [row | {"key": f"h:{n}", "id": identity, "caption": 'a "\\\n☃'} for n, identity in enumerate(ids)]
    rows += [row | {"key": "h:90", "id": "blank", "image_saliency": [1.0] * len(row["image_saliency"])}]
    rows += [{"key": "h:91", "id": "failed", "error": "not an image"}]
    desk = tmp_path / "a" / "b" / "c"
    other = with_rows(desk / "run", rows)
    before = {path for path in tmp_path.rglob("*") if desk / "out" not in path.parents}
    truth = tmp_path / "a" / "truth"
    truth.mkdir()
    Image.new("L", (64, 64), 255).save(tmp_path / "x.png")  # where ../../x.png of the truth would be
    command = [str(other), "--out", str(desk / "out"), "--truth", str(truth)]
    assert script.main(command) == 0
    after = {path for path in tmp_path.rglob("*") if desk / "out" not in path.parents}
    assert after - before == {desk / "out", truth, tmp_path / "x.png"}
    printed = capsys.readouterr().out
    assert "9 masks (1 of them empty)" in printed
    assert "1 pairs skipped: they failed" in printed
    assert "9 without a truth" in printed
    written = json.loads((desk / "out" / "masks.coco.json").read_text())
    assert [image["pair_id"] for image in written["images"]] == [*ids, "blank"]
    assert {annotation["caption"] for annotation in written["annotations"]} == {'a "\\\n☃'}
    assert len(list((desk / "out").glob("*.png"))) == 9


def test_the_truth_is_compared(run: Path, script: Any, tmp_path: Path, capsys: Any) -> None:
    first = load_attributions(run)[0]
    rows = [first | {"key": f"t:{n}", "id": f"pair {n}"} for n in range(6)]
    other = with_rows(tmp_path / "run", rows)
    truth = tmp_path / "truth"
    truth.mkdir()
    mask = segment(Attribution.from_row(first).saliency_at(64, 64), RegionOptions("fixed", 0.5)).mask
    image = Image.fromarray(mask).convert("L")
    image.save(truth / heatmap_name("pair 0", "t:0"))
    Image.fromarray(~mask).convert("L").save(truth / "pair 0.png")  # the other name comes first
    Image.fromarray(~mask).convert("L").save(truth / "pair 1.png")
    image.resize((128, 128), Image.Resampling.NEAREST).save(truth / "pair 2.png")
    Image.new("L", (64, 64)).save(truth / "pair 3.png")
    (truth / "pair 4.png").write_bytes(b"no picture")
    command = [str(other), "--threshold", "fixed", "--truth", str(truth)]
    assert script.main(command) == 0
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
    assert (other / "masks" / "masks.coco.json").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{tmp}/none"], "is no run directory of task=attribute"),
        (["{run}", "--truth", "{tmp}/none"], "--truth must be a folder of PNG masks"),
        (["{run}", "--smooth", "-1"], "smooth must be 0 or more pixels"),
        (["{run}", "--threshold", "fixed", "--value", "2"], "value must be above 0 and at most 1, got 2.0"),
        (["{run}", "--out", "{tmp}/file"], "could not make the folder of the masks"),
    ],
)
def test_the_script_says_what_is_wrong(
    run: Path, script: Any, tmp_path: Path, capsys: Any, words: list[str], message: str
) -> None:
    (tmp_path / "file").write_text("")
    assert script.main([word.format(run=run, tmp=tmp_path) for word in words]) == 2
    assert message in capsys.readouterr().err
    assert not (run / "masks").exists()


def test_a_value_that_nothing_takes_is_refused(run: Path, script: Any, capsys: Any) -> None:
    assert script.main([str(run), "--value", "0.4"]) == 2
    assert "--value is for --threshold fixed and energy; otsu finds its own" in capsys.readouterr().err
