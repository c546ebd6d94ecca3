"""Requests to ``explain``: captions, lists of captions, a target embedding, a prompt ensemble."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from m2ib_lightning import Attribution, explain, load_model
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.models import LoadedModel
from tests.equality import relative_difference
from tests.folders import open_image, save_clip_folder, save_photograph, save_siglip_folder
from tests.reference import clean_embeddings

CAPTIONS = ["a red circle", "the small blue star and a white ring", "ring"]


@pytest.fixture(scope="module", params=["clip", pytest.param("siglip", marks=pytest.mark.slow)])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    save: Any = save_clip_folder if request.param == "clip" else save_siglip_folder
    loaded = load_model(str(save(tmp_path_factory.mktemp("model"))))
    return replace(loaded, preset=loaded.preset.override({"noise_samples": 3}))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    return [save_photograph(folder / f"{k}.png", 50 + 10 * k, 40) for k in range(3)]


def text_embedding(model: LoadedModel, caption: str) -> torch.Tensor:
    """Return the untouched model's embedding of a caption."""
    text = model.preparer.pad([model.preparer.read_caption(caption)[0]])
    weights = model.encoder.model
    side = weights.config.vision_config.image_size
    blank = torch.zeros(1, 3, side, side, dtype=model.dtype)
    return clean_embeddings(weights, blank, text["input_ids"])["text"][0]


def assert_same_image(a: Attribution, b: Attribution, tolerance: float = 1e-9) -> None:
    assert a.image is not None
    assert b.image is not None
    assert abs(a.similarity - b.similarity) < tolerance
    for name in ("saliency", "loss", "information", "similarity"):
        assert relative_difference(getattr(a.image, name), getattr(b.image, name)) < tolerance


def test_the_captions_own_embedding_as_target_gives_the_captions_map(model: LoadedModel, pictures: list[Path]) -> None:
    expected = explain(pictures[0], CAPTIONS[0], model=model, dtype=torch.float64)
    target = text_embedding(model, CAPTIONS[0]).double() * 7  # its norm does not matter
    result = explain(pictures[0], target=target, model=model, dtype=torch.float64)
    assert_same_image(result, expected, 1e-6)  # the target was computed in float32
    for form in (target.numpy(), target.tolist(), target[None], target * 1e-30, target * 1e30):
        assert_same_image(explain(pictures[0], target=form, model=model, dtype=torch.float64), result)
    assert result.text is None
    assert result.tokens == []
    with pytest.raises(M2IBError, match="has no text result: the image was explained against an embedding"):
        result.text_saliency  # noqa: B018


def test_an_ensemble_is_the_mean_of_the_normalised_embeddings(model: LoadedModel, pictures: list[Path]) -> None:
    model.encoder.model.double()
    units = [torch.nn.functional.normalize(text_embedding(model, caption), dim=0) for caption in CAPTIONS]
    expected = explain(pictures[0], target=torch.stack(units).mean(0), model=model, dtype=torch.float64)
    result = explain(pictures[0], CAPTIONS, ensemble=True, model=model, dtype=torch.float64)
    model.encoder.model.float()
    assert_same_image(result, expected)
    assert result.pair.caption == "; ".join(CAPTIONS)


def test_an_ensemble_of_one_caption_gives_the_captions_map(model: LoadedModel, pictures: list[Path]) -> None:
    one = explain(pictures[0], CAPTIONS[:1], ensemble=True, model=model, dtype=torch.float64)
    assert_same_image(one, explain(pictures[0], CAPTIONS[0], model=model, dtype=torch.float64))


def test_a_list_of_captions_gives_one_result_each(model: LoadedModel, pictures: list[Path]) -> None:
    results = explain(pictures[0], CAPTIONS, model=model, dtype=torch.float64)
    assert [result.pair.caption for result in results] == CAPTIONS
    for result, caption in zip(results, CAPTIONS, strict=True):
        alone = explain(pictures[0], caption, model=model, dtype=torch.float64)
        assert_same_image(result, alone)
        assert relative_difference(result.text_saliency, alone.text_saliency) < 1e-9


def test_one_caption_for_many_images(model: LoadedModel, pictures: list[Path]) -> None:
    results = explain(list(pictures), CAPTIONS[0], model=model, dtype=torch.float64)
    assert [result.pair.image for result in results] == [str(path) for path in pictures]
    assert_same_image(results[2], explain(pictures[2], CAPTIONS[0], model=model, dtype=torch.float64))


def test_targets_stay_with_their_images_if_one_is_broken(model: LoadedModel, pictures: list[Path]) -> None:
    targets = torch.stack([text_embedding(model, caption) for caption in CAPTIONS])
    images = [pictures[0], "missing.png", pictures[2]]
    first, broken, last = explain(images, target=targets, model=model, batch_size=3, dtype=torch.float64)
    assert "does not exist" in str(broken.error)
    assert_same_image(first, explain(pictures[0], target=targets[0], model=model, dtype=torch.float64))
    assert_same_image(last, explain(pictures[2], target=targets[2], model=model, dtype=torch.float64))


def test_a_result_without_a_text_part_can_be_drawn(model: LoadedModel, pictures: list[Path], tmp_path: Path) -> None:
    target = explain(pictures[0], target=text_embedding(model, CAPTIONS[0]), model=model)
    ensemble = explain(pictures[0], ["<b>a star</b>", "ring"], ensemble=True, model=model)
    for name, result in (("target", target), ("ensemble", ensemble)):
        result.save(tmp_path / f"{name}.png")
        result.save(tmp_path / f"{name}.html")
        assert Image.open(tmp_path / f"{name}.png").height >= 200
        assert "against an embedding" in (tmp_path / f"{name}.html").read_text()
        assert result.to_row().get("text_saliency") is None
    page = (tmp_path / "ensemble.html").read_text()
    assert "&lt;b&gt;a" in page
    assert "nan" not in page


@pytest.mark.parametrize("switched_off", [torch.no_grad, torch.inference_mode])
def test_the_caller_may_switch_gradients_off(model: LoadedModel, pictures: list[Path], switched_off: Any) -> None:
    expected = explain(pictures[0], "ring", model=model)
    with switched_off():
        assert_same_image(explain(pictures[0], "ring", model=model), expected, 1e-6)


def test_fit_is_respected(model: LoadedModel, pictures: list[Path]) -> None:
    crops = {fit: explain(pictures[2], "ring", model=model, fit=fit).pair.crop for fit in ("crop", "pad", "stretch")}
    assert crops["crop"] == (15, 0, 55, 40)
    assert crops["stretch"] == (0, 0, 70, 40)
    assert crops["pad"][1] < 0
    assert crops["pad"][3] > 40


PICTURE = np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give a caption, a list of captions, or target="),
        ({"text": 3}, "a caption must be a string, got int"),
        ({"text": ["a", 3]}, "caption 1 must be a string, got int"),
        ({"text": "a star", "target": [1.0]}, "give captions or a target embedding, not both"),
        ({"target": [1.0], "ensemble": True}, "not both"),
        ({"text": "a star", "ensemble": True}, "ensemble=True needs a list of captions"),
        ({"text": [], "ensemble": True}, "ensemble=True needs a list of captions"),
        ({"text": ["a star", " "], "ensemble": True}, "the caption ' ' of the ensemble: the caption is empty"),
        ({"target": [1.0, 2.0]}, r"target must be \(\d+,\), the size of this model's embeddings.*got \(2,\)"),
        ({"target": "a star"}, "target must be an embedding"),
        ({"target": "zeros"}, "target must be finite and not zero"),
        ({"target": "nan"}, "target must be finite and not zero"),
        ({"text": "a star", "image": "missing.png"}, "the image 'missing.png' does not exist"),
        ({"text": ["a", "b"], "image": [PICTURE] * 3}, "got 3 images and 2 captions"),
        ({"text": "a star", "fit": "padd"}, "Did you mean 'pad'"),
        ({"text": "a star", "device": "nowhere"}, "device='nowhere' can't be used"),
        ({"text": "a star", "device": "meta"}, "device='meta' can't be used"),
    ],
)
def test_invalid_requests(model: LoadedModel, arguments: dict[str, Any], message: str) -> None:
    arguments = {"image": PICTURE, "model": model, **arguments}
    size = model.encoder.towers["image"].embedding_size
    targets = {"zeros": torch.zeros(size), "nan": torch.full((size,), torch.nan)}
    if isinstance(arguments.get("target"), str):
        arguments["target"] = targets.get(arguments["target"], arguments["target"])
    with pytest.raises(M2IBError, match=message):
        explain(**arguments)


def test_unusual_pictures_are_explained(model: LoadedModel) -> None:
    animated = Image.new("RGB", (30, 20), "red")
    for picture in (Image.new("L", (1, 200)), Image.new("I;16", (40, 20)), Image.new("CMYK", (9, 9)), animated):
        result = explain(picture, "ring", model=model)
        assert result.image_heatmap.shape == open_image(picture).size[::-1]
