"""``ground``: the maps of units against the oracle, the targets, the rows, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor

from m2ib_lightning import Grounding, explain, ground, load_model
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.models import LoadedModel
from m2ib_lightning.results.grounding_drawing import draw_result, unit_heatmap
from m2ib_lightning.run.parts import to_record_batch
from tests.equality import relative_difference
from tests.folders import save_clip_folder, save_photograph, save_siglip_folder
from tests.reference import blocks_of, clean_embeddings, embed, explain_tower

CAPTION = "a red circle and the small blue star"
DOUBLE: Any = {"dtype": torch.float64}


@pytest.fixture(scope="module", params=["clip", "siglip"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    save: Any = save_clip_folder if request.param == "clip" else save_siglip_folder
    loaded = load_model(str(save(tmp_path_factory.mktemp("model"))))
    return replace(loaded, preset=loaded.preset.override({"noise_samples": 3, "steps": 4}))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    return [save_photograph(folder / f"{k}.png", 50 + 10 * k, 40) for k in range(2)]


@pytest.fixture(scope="module")
def grounding(model: LoadedModel, pictures: list[Path]) -> Grounding:
    return ground(pictures[0], CAPTION, model=model, **DOUBLE)


def oracle(model: LoadedModel, picture: Path, target: Tensor) -> np.ndarray:
    """The patches' saliency against a target, by the slow reference in float64."""
    weights, tower = model.encoder.model.double(), model.preset.image
    try:
        pixels = torch.as_tensor(model.preparer.framing(_open(picture))[0])[None].double()
        saliency = explain_tower(
            lambda rows: embed(
                weights, "image", pixels.expand(rows, -1, -1, -1), torch.zeros(rows, 1, dtype=torch.long)
            ),
            blocks_of(weights, "image"),
            target,
            modality="image",
            largest=weights.vision_model.embeddings.num_positions,
            layer=model.encoder.towers["image"].resolve_layer(tower.layer),
            beta=tower.beta,
            sigma=tower.sigma,
            granularity=tower.granularity,
            steps=4,
            noise_samples=3,
        )["saliency"]
    finally:
        weights.float()
    return np.asarray(saliency[model.encoder.towers["image"].spec.prefix_tokens :])


def _open(path: Path) -> Any:
    from PIL import Image

    return Image.open(path).convert("RGB")


def normalised_text(model: LoadedModel, caption: str) -> Tensor:
    weights = model.encoder.model.double()
    try:
        ids = model.preparer.pad([model.preparer.read_caption(caption)[0]])["input_ids"]
        side = weights.config.vision_config.image_size
        return F.normalize(clean_embeddings(weights, torch.zeros(1, 3, side, side).double(), ids)["text"][0], dim=-1)
    finally:
        weights.float()


def test_the_map_of_each_unit_is_the_oracles(model: LoadedModel, pictures: list[Path], grounding: Grounding) -> None:
    assert [unit.text for unit in grounding.units] == ["red circle", "small blue star"]
    full = normalised_text(model, CAPTION)
    for unit, rest in enumerate(("a and the small blue star", "a red circle and the")):
        expected = oracle(model, pictures[0], F.normalize(full - normalised_text(model, rest), dim=-1))
        assert relative_difference(grounding.matrix[unit], expected) < 1e-6


def test_shares_are_what_the_similarity_loses(model: LoadedModel, pictures: list[Path], grounding: Grounding) -> None:
    for share, rest in zip(grounding.shares, ("a and the small blue star", "a red circle and the"), strict=True):
        left = explain(pictures[0], rest, model=model, **DOUBLE).similarity
        assert share == pytest.approx(grounding.whole.similarity - left, abs=1e-6)


def test_the_whole_is_what_explain_gives(model: LoadedModel, pictures: list[Path], grounding: Grounding) -> None:
    alone = explain(pictures[0], CAPTION, model=model, **DOUBLE)
    assert relative_difference(grounding.whole.image_saliency, alone.image_saliency) < 1e-9
    assert relative_difference(grounding.whole.text_saliency, alone.text_saliency) < 1e-9


@pytest.mark.parametrize("method", ["m2ib", "m2ib:smooth=0.6", "gradcam", "occlusion", "rise:samples=8"])
def test_a_caption_with_one_unit_equals_explain_on_its_target(
    model: LoadedModel, pictures: list[Path], method: str
) -> None:
    result = ground(pictures[1], CAPTION, units=[(2, 12)], model=model, method=method, **DOUBLE)
    target = normalised_text(model, CAPTION) - normalised_text(model, "a and the small blue star")
    expected = explain(pictures[1], target=target, model=model, method=method, **DOUBLE)
    assert relative_difference(result.maps[0], expected.image_saliency) < 1e-6


def test_other_targets_are_the_unit_alone_and_a_contrast(model: LoadedModel, pictures: list[Path]) -> None:
    options: Any = {"units": [(2, 12)], "model": model, **DOUBLE}
    alone = ground(pictures[0], CAPTION, target="alone", **options)
    unit = normalised_text(model, "red circle")
    expected = explain(pictures[0], target=unit, model=model, **DOUBLE)
    assert relative_difference(alone.maps[0], expected.image_saliency) < 1e-6
    assert alone.shares[0] == pytest.approx(expected.similarity, abs=1e-6)
    contrast = ground(pictures[0], CAPTION, target="contrast", against="the white ring", **options)
    expected = explain(pictures[0], "red circle", against="the white ring", model=model, **DOUBLE)
    assert relative_difference(contrast.maps[0], expected.image_saliency) < 1e-6
    assert expected.text is None


def test_no_pair_sees_its_neighbours(model: LoadedModel, pictures: list[Path], grounding: Grounding) -> None:
    captions = ["ring", CAPTION, "a star and a ring and a circle"]
    images = [pictures[1], pictures[0], pictures[0]]
    for batch_size in (3, 2):
        results = ground(images, captions, model=model, batch_size=batch_size, **DOUBLE)
        assert [len(result.units) for result in results] == [0, 2, 3]
        assert relative_difference(results[1].maps, grounding.maps) < 1e-9
        assert relative_difference(results[1].whole.image_saliency, grounding.whole.image_saliency) < 1e-9


def test_a_row_restores_the_grounding(grounding: Grounding) -> None:
    row = to_record_batch([grounding.to_row()]).to_pylist()[0]
    again = Grounding.from_row(row)
    assert again.units == grounding.units
    np.testing.assert_allclose(again.maps, grounding.maps, rtol=1e-6)
    np.testing.assert_allclose(again.shares, grounding.shares, rtol=1e-6)
    with pytest.raises(M2IBError, match="must have"):
        Grounding.from_row({**row, "unit_saliency": [[1.0], [2.0]]})
    with pytest.raises(M2IBError, match="has no units"):
        Grounding.from_row({**row, "unit_saliency": None})


def test_units_beyond_what_the_model_reads_carry_nothing(model: LoadedModel, pictures: list[Path]) -> None:
    caption = "a red circle and the small blue star " + "and a white ring " * 20 + "and a green square"
    result = ground(pictures[0], caption, model=model)
    assert result.whole.pair.truncated
    assert result.whole.units is not None
    unread = result.whole.units.unread
    assert len(result.units) - 1 in unread
    assert 0 not in unread
    assert not result.maps[list(unread)].any()
    row = result.to_row()
    assert row["unit_share"][unread[0]] is row["unit_saliency"][unread[0]] is None
    assert Grounding.from_row(to_record_batch([row]).to_pylist()[0]).whole.units.unread == unread  # type: ignore[union-attr]


def test_a_region_names_the_units_it_carries(grounding: Grounding) -> None:
    width, height = grounding.whole.pair.image_size
    full = grounding.in_region((0, 0, width, height))
    np.testing.assert_allclose(full, 1.0, rtol=1e-4)
    left, right = grounding.in_region((0, 0, width / 2, height)), grounding.in_region((width / 2, 0, width, height))
    assert not np.allclose(left, right)
    mask = np.zeros((height, width), bool)
    mask[:, : width // 2] = True
    np.testing.assert_allclose(grounding.in_region(mask), left, rtol=1e-5)
    with pytest.raises(M2IBError, match="a region must be a box"):
        grounding.in_region((1, 2, 3))
    with pytest.raises(M2IBError, match="covers no pixel"):
        grounding.in_region((0, 0, 0, 0))


def test_a_grounding_is_drawn_and_shown(grounding: Grounding, tmp_path: Path) -> None:
    grounding.save(tmp_path / "g.png")
    grounding.save(tmp_path / "g.html")
    assert draw_result(grounding.whole).size[0] > 2 * draw_result(replace(grounding.whole, units=None)).size[1]
    page = (tmp_path / "g.html").read_text()
    assert page.count("<img") == 3
    assert "the map of red circle" in page
    assert grounding.heatmap(1).shape == grounding.whole.image_heatmap.shape
    assert grounding.heatmap(1).max() == pytest.approx(1.0)
    with pytest.raises(M2IBError, match="there is no unit 2"):
        unit_heatmap(grounding.whole, 2, 10, 10)
    with pytest.raises(M2IBError, match=r"\.pdf or \.html"):
        grounding.save(tmp_path / "g.txt")


def test_units_of_data_are_escaped(model: LoadedModel, pictures: list[Path]) -> None:
    page = ground(pictures[0], "a <script>alert(1)</script> and a ring", model=model)._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page or "&lt;" in page


def test_mistakes(model: LoadedModel, pictures: list[Path]) -> None:
    with pytest.raises(M2IBError, match="is the whole caption"):
        ground(pictures[0], "ring", units=[(0, 4)], model=model)
    with pytest.raises(M2IBError, match="one list of spans for each of the 2 pairs"):
        ground(pictures, ["a ring", "a star"], units=[[(2, 6)]], model=model)
    with pytest.raises(TypeError, match=r"no argument 'metod'.*method"):
        ground(pictures[0], "a ring", metod="m2ib", model=model)  # type: ignore[call-overload]
    with pytest.raises(M2IBError, match="same embedding"):
        explain(pictures[0], "a ring", against="a ring", model=model)
    with pytest.raises(M2IBError, match="captions alone"):
        explain(pictures[0], against="a ring", target=torch.ones(3), model=model)
    results = ground(pictures, ["a ring", "a star"], units=[[(2, 6)], [(2, 99)]], model=model)
    assert results[0].whole.error is None
    assert "outside the caption" in str(results[1].whole.error)
    assert "error" in repr(results[1])
    with pytest.raises(M2IBError, match="has no units"):
        _ = results[1].maps
