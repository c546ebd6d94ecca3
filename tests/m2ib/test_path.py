"""The map along a path of betas: the oracle's numbers, batch independence, units, and what a row says of it."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from m2ib_lightning import explain, ground
from m2ib_lightning.datamodules.scenes import SceneSource
from m2ib_lightning.encoder.towers import Encoder
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.m2ib.explainer import Explainer, resolve
from m2ib_lightning.m2ib.path import DIFFERENCE_UNIT, UNIT, Path, path_betas, read_path
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.results.attribution import Attribution
from tests.equality import assert_same_result, relative_difference
from tests.reference import explain_reference
from tests.tiny import SMALL, TinyPair, make_batch, make_model, make_pairs

LENGTHS = [3, 9, 1]
VALUES: dict[str, Any] = {"steps": 4, "noise_samples": 2, "initial_alpha": 3.0}


def explain_tiny(
    model: Any,
    pairs: list[TinyPair],
    values: dict[str, Any],
    dtype: torch.dtype = torch.float64,
    names: str = "abc",
) -> list[Attribution]:
    encoder = Encoder(model)
    explainer = Explainer(encoder, resolve(BottleneckSettings().override(values), encoder), seed=3)
    explainer.bottlenecks.to(dtype)
    with explainer.at_work():
        return explainer(make_batch(model, pairs, list(names[: len(pairs)])), explainer.optimizer())


def read_slowly(maps: list[np.ndarray]) -> np.ndarray:
    """The reading, patch by patch, as its definition says."""
    return blurred_slowly(sum(np.log(1 + each) for each in maps) / len(maps)) ** 4


def blurred_slowly(level: np.ndarray) -> np.ndarray:
    """A Gaussian of 0.7 patches over the patches that exist."""
    height, width = level.shape
    cells = list(product(range(height), range(width)))
    read = np.zeros((height, width))
    for row, column in cells:
        weight = {(r, c): math.exp(-((r - row) ** 2 + (c - column) ** 2) / (2 * 0.7**2)) for r, c in cells}
        read[row, column] = sum(weight[cell] * level[cell] for cell in cells) / sum(weight.values())
    return read


@pytest.mark.parametrize(
    ("family", "granularity", "count"), [("clip", "token", 3), ("clip", "element", 2), ("siglip", "token", 2)]
)
def test_a_path_equals_the_reference(family: str, granularity: str, count: int) -> None:
    model = make_model(family, **SMALL)
    pairs = make_pairs(model, LENGTHS[:2])
    tower: dict[str, Any] = {"layer": 0, "beta": 0.3, "granularity": granularity}
    results = explain_tiny(model, pairs, VALUES | {"image": tower, "path": count})
    single = explain_tiny(model, pairs, VALUES | {"image": tower, "path": count}, torch.float32)
    betas = [0.3 / 4 * 32 ** (index / (count - 1)) for index in range(count)]
    model.double()
    for pair, result, other in zip(pairs, results, single, strict=True):
        assert result.image is not None
        assert other.image is not None
        pixels, ids = pair.pixels[None].double(), torch.tensor([pair.ids])
        runs = [
            explain_reference(model, "image", pixels, ids, seed=3, **VALUES, **tower | {"beta": beta}) for beta in betas
        ]
        grid = result.image_saliency.shape
        expected = read_slowly([run["saliency"][-result.image_saliency.size :].reshape(grid) for run in runs])
        assert relative_difference(result.image_saliency, expected) < 1e-6
        assert relative_difference(other.image_saliency, expected) < 1e-4
        for name in ("loss", "information", "similarity"):  # means over the path
            curve = np.mean([run[name] for run in runs], axis=0)
            assert np.abs(getattr(result.image, name) - curve).max() < 1e-6


@pytest.mark.parametrize("count", [1, 2])
def test_the_opposite_target_equals_the_reference(count: int) -> None:
    model = make_model("clip", **SMALL)
    (pair,) = make_pairs(model, [3])
    tower: dict[str, Any] = {"layer": 0, "beta": 0.3, "granularity": "token"}
    (result,) = explain_tiny(model, [pair], VALUES | {"image": tower, "path": count, "opposite": True})
    assert result.image is not None
    assert result.image_unit == DIFFERENCE_UNIT
    model.double()
    pixels, ids = pair.pixels[None].double(), torch.tensor([pair.ids])
    grid = result.image_saliency.shape
    levels, curves = {}, []
    for opposite in (False, True):
        runs = [
            explain_reference(
                model, "image", pixels, ids, opposite=opposite, seed=3, **VALUES, **tower | {"beta": beta}
            )
            for beta in path_betas(0.3, count)
        ]
        maps = [run["saliency"][-result.image_saliency.size :].reshape(grid) for run in runs]
        levels[opposite] = sum(np.log(1 + each) for each in maps) / count
        curves.append(np.mean([run["similarity"] for run in runs], axis=0))
    expected = blurred_slowly(levels[False] - levels[True]).clip(min=0) ** 3
    assert expected.max() > 0
    assert relative_difference(result.image_saliency, expected) < 1e-6
    assert np.abs(result.image.similarity - curves[0]).max() < 1e-6
    assert np.abs(curves[0] - curves[1]).max() > 0.01


def test_a_path_leaves_the_caption_alone() -> None:
    model = make_model("clip", **SMALL)
    pairs = make_pairs(model, LENGTHS)
    single, path = (explain_tiny(model, pairs, VALUES | {"path": count}) for count in (1, 2))
    for one, other in zip(single, path, strict=True):
        assert relative_difference(one.text_saliency, other.text_saliency) < 1e-12
        assert relative_difference(one.image_saliency, other.image_saliency) > 0.1
        assert (one.unit, one.image_unit) == ("nats", None)
        assert (other.unit, other.image_unit) == ("nats", UNIT)


def test_neighbours_chunks_and_order_do_not_matter() -> None:
    """Invariant 4."""
    model = make_model("clip", **SMALL)
    pairs = make_pairs(model, LENGTHS)
    values = VALUES | {"path": 3}
    for dtype in (torch.float64, torch.float32):
        together = explain_tiny(model, pairs, values, dtype)
        backwards = explain_tiny(model, pairs[::-1], values | {"max_rows": 7}, dtype, "cba")[::-1]
        for index, pair in enumerate(pairs):
            (alone,) = explain_tiny(model, [pair], values, dtype, "abc"[index])
            for other in (alone, backwards[index]):
                if dtype == torch.float64:
                    assert_same_result(together[index], other, 1e-9)
                assert relative_difference(together[index].image_saliency, other.image_saliency) < 1e-5


def test_a_path_reads_each_row_on_its_own_grid() -> None:
    saliency = torch.rand(4, 8, dtype=torch.float64) * 50
    read = read_path(saliency, [(2, 3), (2, 4)], Path(2))
    small = [saliency[index, :6].reshape(2, 3).numpy() for index in (0, 1)]
    large = [saliency[index].reshape(2, 4).numpy() for index in (2, 3)]
    assert relative_difference(read[0, :6].reshape(2, 3), read_slowly(small)) < 1e-12
    assert relative_difference(read[1].reshape(2, 4), read_slowly(large)) < 1e-12
    assert (read[0, 6:] == 0).all()


def test_the_betas_of_a_path() -> None:
    assert path_betas(0.1, 1) == [0.1]
    assert np.allclose(path_betas(0.1, 2), [0.025, 0.8], rtol=1e-12)
    with pytest.raises(M2IBError, match="opposite must be true or false, got 1"):
        BottleneckSettings(opposite=1)  # type: ignore[arg-type]
    with pytest.raises(M2IBError, match="path must be a whole number of at least 1, got 0"):
        BottleneckSettings(path=0)


def test_the_map_of_a_unit_is_read_along_the_path_too() -> None:
    example = SceneSource(5, 1, mentioned=2).example(0)
    image, caption = example.scene.image, example.caption.text
    options: dict[str, Any] = {"model": "scenes", "bottleneck": {"path": 2, "steps": 3, "noise_samples": 2}}
    grounding = ground(image, caption, target="alone", dtype=torch.float64, **options)
    assert len(grounding.units) == 2
    for unit, saliency in zip(grounding.units, grounding.maps, strict=True):
        text = caption[unit.start : unit.end]
        expected = explain(image, text, dtype=torch.float64, **options).image_saliency
        # The unit's embedding is normalised first, which rounds it differently.
        assert relative_difference(saliency, expected) < 1e-6


def test_a_row_says_the_unit_of_its_map() -> None:
    model = make_model("clip", **SMALL)
    (result,) = explain_tiny(model, make_pairs(model, [3]), VALUES | {"path": 2})
    row = result.to_row()
    assert row["image_unit"] == UNIT
    restored = Attribution.from_row(row)
    assert (restored.unit, restored.image_unit) == ("nats", UNIT)
    assert np.array_equal(restored.image_saliency, result.image_saliency.astype(np.float32))
