"""Pictures of four quadrants, of scenes and of a folder of images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m2ib_lightning.cli import main
from m2ib_lightning.datamodules.quadrant_sources import SIDE, FolderQuadrants, SceneQuadrants, around, compose, name_all
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.pairs.fingerprint import fingerprint
from m2ib_lightning.pairs.images import read_image
from m2ib_lightning.pairs.pair import RawPair
from m2ib_lightning.run.table import load_attributions
from m2ib_lightning.scenes import Difficulty, paint_scene
from m2ib_lightning.scenes.vocabulary import COLOURS

LABELS = {"red_fox": (200, 0, 0), "owl": (0, 200, 0), "car": (0, 0, 200), "tree": (200, 200, 0), "sea": (0, 200, 200)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of labels with two plain pictures each, wider than high; one label is empty, one folder hidden."""
    for label, colour in LABELS.items():
        for number in range(2):
            (tmp_path / label).mkdir(exist_ok=True)
            Image.new("RGB", (40, 24), colour).save(tmp_path / label / f"{number}.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / ".hidden").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / ".hidden" / "a.png")
    return tmp_path


def shown(pair: RawPair) -> Image.Image:
    assert pair.image is not None
    return read_image(pair.image).picture


def masks_by_name(pair: RawPair) -> dict[str, np.ndarray]:
    assert pair.truth is not None
    assert pair.caption is not None
    return {pair.caption[part.start : part.end]: part.mask for part in pair.truth.parts}


@pytest.mark.parametrize("mentioned", [1, 4, *(pytest.param(count, marks=pytest.mark.slow) for count in (2, 3))])
def test_each_named_label_is_shown_where_its_mask_says(folder: Path, mentioned: int) -> None:
    source = FolderQuadrants(folder, 5, 12, mentioned, truth=True)
    places = set()
    for index in range(len(source)):
        pair = source[index]
        picture = np.asarray(shown(pair))
        assert picture.shape == (2 * SIDE, 2 * SIDE, 3)
        masks = masks_by_name(pair)
        assert len(masks) == mentioned
        assert pair.truth is not None
        assert pair.truth.named == tuple(masks)
        for name, mask in masks.items():
            assert mask.sum() == SIDE**2
            assert (picture[mask] == LABELS[name.replace(" ", "_")]).all()
            places.add(int(mask.argmax()))
        assert np.array_equal(pair.truth.mask, np.logical_or.reduce(list(masks.values())))  # type: ignore[arg-type]
        assert len(set(pair.truth.contains)) == 4
        by_kind = {other.kind: other for other in pair.truth.others}
        assert by_kind["absent"].named[0] not in pair.truth.contains
        if mentioned < 4:
            present = by_kind["present"]
            assert present.mask is not None
            assert (picture[present.mask] == LABELS[present.named[0].replace(" ", "_")]).all()
        assert ("present" in by_kind) == (mentioned < 4)
    assert len(places) == 4  # the named objects are everywhere


def test_a_scene_of_quadrants_shows_the_whole_of_four_kinds() -> None:
    source = SceneQuadrants(3, 8, 4, truth=True)
    for index in range(8):
        pair = source[index]
        picture = np.asarray(shown(pair)).astype(float)
        assert picture.shape == (64, 64, 3)
        for name, mask in masks_by_name(pair).items():
            colour = COLOURS[name.split()[0]]
            near = np.abs(picture - colour).max(-1) < 60
            assert near[mask].sum() > 20, name  # the smallest star has about 30 pixels without its rim
    assert {name for name in masks_by_name(source[0])} != {name for name in masks_by_name(source[1])}


def test_a_quadrant_holds_its_whole_object() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        scene = paint_scene(rng, Difficulty(objects=(1, 1)))
        covered = np.repeat(scene.masks[0][..., None] > 0, 3, axis=2).astype(np.uint8)
        part = around(rng, replace(scene, image=covered))
        assert part.shape == (32, 32, 3)
        assert part.sum() == covered.sum()


def test_pairs_depend_on_seed_and_index_only(folder: Path) -> None:
    for first, again, other in (
        (SceneQuadrants(1, 9, 2), SceneQuadrants(1, 4, 2, truth=True), SceneQuadrants(2, 9, 2)),
        (FolderQuadrants(folder, 1, 9), FolderQuadrants(folder, 1, 4, truth=True), FolderQuadrants(folder, 2, 9)),
    ):
        assert shown(first[3]).tobytes() == shown(again[3]).tobytes()
        assert (first[3].caption, first[3].key) == (again[3].caption, again[3].key)
        assert shown(first[3]).tobytes() != shown(other[3]).tobytes()
        assert first[3].truth is None


def test_a_resumed_run_sees_another_picture(folder: Path) -> None:
    source = FolderQuadrants(folder, 0, 1)
    before = source[0]
    for file in folder.glob("*/*.png"):
        Image.new("RGB", (30, 30), (9, 9, 9)).save(file)
    assert before.caption == source[0].caption
    assert fingerprint(before) != fingerprint(source[0])


def test_captions_name_everything_with_its_article() -> None:
    caption, spans = name_all(["owl", "red fox", "Eel"])
    assert caption == "a photo of an owl and a red fox and an Eel"
    assert [caption[start:end] for start, end in spans] == ["owl", "red fox", "Eel"]


def test_places_are_read_like_a_page() -> None:
    picture = compose([Image.new("RGB", (1, 1), (value, 0, 0)) for value in (10, 20, 30, 40)], [3, 0, 1, 2])
    assert np.asarray(picture)[..., 0].tolist() == [[20, 30], [40, 10]]


def test_a_broken_picture_costs_its_pairs_only(folder: Path) -> None:
    for file in folder.glob("owl/*.png"):
        file.write_bytes(b"no picture")
    pairs = [pair for pair in (FolderQuadrants(folder, 0, 12)[k] for k in range(12)) if pair.error is not None]
    assert 0 < len(pairs) < 12
    assert all("owl" in str(pair.error) for pair in pairs)


def test_what_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(M2IBError, match=r"names 1 to 4 of them, got data.mentioned=5"):
        SceneQuadrants(0, 1, 5)
    with pytest.raises(M2IBError, match=r"has images in 0 subfolders.*at least four"):
        FolderQuadrants(folder / "owl", 0)
    with pytest.raises(M2IBError, match="is not a folder"):
        FolderQuadrants(tmp_path / "nowhere", 0)


@pytest.mark.slow
def test_a_run_explains_quadrants(folder: Path, tmp_path: Path) -> None:
    arguments = [
        "data.name=quadrants",
        f"data.path={folder}",
        "data.limit=2",
        "method.name=gradcam",
        "output.heatmaps=0",
    ]
    assert main([*arguments, f"output_dir={tmp_path / 'run'}"]) == 0
    rows = load_attributions(tmp_path / "run")
    assert [row["key"] for row in rows] == [f"quadrants-{folder.name}-0:{k}" for k in range(2)]
    assert all(row["error"] is None for row in rows)
