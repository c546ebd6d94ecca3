"""Nothing is explained that is not the model: the cut towers are compared with the model's own function."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from PIL import Image
from torch import nn
from transformers import CLIPModel

from m2ib_lightning import M2IBModule, explain, load_model
from m2ib_lightning.cli import main
from m2ib_lightning.encoder.identity import IdentityCheck
from m2ib_lightning.encoder.suffix import make_suffix
from m2ib_lightning.encoder.towers import Encoder
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.methods import METHODS
from m2ib_lightning.models.load import wrap_model
from tests.tiny import FAMILIES, make_batch, make_model, make_pairs

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))


def scenes() -> Any:
    return copy.deepcopy(load_model("scenes").encoder.model)


def push(output: Any) -> Any:
    if torch.is_tensor(output):
        return output + 3 * torch.linspace(-1, 1, output.shape[-1])
    for name in ("last_hidden_state", "pooler_output", "image_embeds"):
        if torch.is_tensor(getattr(output, name, None)):
            setattr(output, name, push(getattr(output, name)))
    return output


def hook(path: str) -> Callable[[], Any]:
    def make() -> Any:
        model = scenes()
        model.get_submodule(path).register_forward_hook(lambda module, inputs, output: push(output))
        return model

    return make


def input_hook() -> Any:
    model = scenes()
    model.vision_model.encoder.register_forward_pre_hook(
        lambda module, args, kwargs: (args, {k: push(v) if k == "inputs_embeds" else v for k, v in kwargs.items()}),
        with_kwargs=True,
    )
    return model


def replaced_forward() -> Any:
    model = scenes()
    original = model.text_model.forward
    model.text_model.forward = lambda *args, **options: push(original(*args, **options))
    return model


class Adapted(CLIPModel):
    """A subclass that adds an adapter to its image embedding."""

    def get_image_features(self, *args: Any, **options: Any) -> Any:
        return push(super().get_image_features(*args, **options))


class Whole(CLIPModel):
    """A subclass that changes what the whole model returns."""

    def forward(self, *args: Any, **options: Any) -> Any:
        output = super().forward(*args, **options)
        output.text_embeds = push(output.text_embeds)
        return output


def subclass(kind: type[CLIPModel]) -> Callable[[], Any]:
    def make() -> Any:
        model = scenes()
        model.__class__ = kind
        return model

    return make


CHANGES: dict[str, tuple[Callable[[], Any], str]] = {
    "image encoder": (hook("vision_model.encoder"), "image"),
    "image tower": (hook("vision_model"), "image"),
    "text encoder": (hook("text_model.encoder"), "text"),
    "text tower": (hook("text_model"), "text"),
    "the whole model": (hook(""), "image"),
    "input of the encoder": (input_hook, "image"),
    "replaced forward": (replaced_forward, "text"),
    "subclass": (subclass(Adapted), "image"),
    "subclass of the whole": (subclass(Whole), "text"),
}


@pytest.mark.parametrize(
    ("change", "method"),
    [
        (change, method)
        if (method == "saliency") == (index % 2 == 0)
        else pytest.param(change, method, marks=pytest.mark.slow)
        for index, change in enumerate(CHANGES)
        for method in ("m2ib:steps=1", "saliency")
    ],
)
def test_a_change_outside_the_blocks_is_refused(change: str, method: str) -> None:
    make, tower = CHANGES[change]
    processor = load_model("scenes").processor
    with pytest.raises(M2IBError, match=f"the {tower} tower is not the model's own function.*outside the blocks"):
        explain(PICTURE, "a red circle", model=make(), processor=processor, method=method)


@pytest.mark.parametrize("path", ["vision_model.embeddings", "visual_projection", "text_model.embeddings"])
def test_a_change_that_the_towers_run_too_is_explained(path: str) -> None:
    """The embeddings, norms and projections are called as they are, so their hooks are in the towers."""
    model, processor = hook(path)(), load_model("scenes").processor
    inputs = processor(text=["a red circle"], images=[PICTURE], return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs)
    result = explain(PICTURE, "a red circle", model=model, processor=processor, bottleneck={"steps": 1})
    assert result.similarity == pytest.approx(float(F.cosine_similarity(output.image_embeds, output.text_embeds)))


def test_every_method_makes_the_check() -> None:
    model, processor = hook("vision_model.encoder")(), load_model("scenes").processor
    for name in METHODS:
        if name != "readout":  # needs a trained bottleneck
            with pytest.raises(M2IBError, match="not the model's own function"):
                explain(PICTURE, "a red circle", model=model, processor=processor, method=name)


def test_the_check_runs_once_in_a_run_and_after_each_start(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    original = Encoder.features

    def counted(encoder: Encoder, modality: Any, inputs: Any) -> Any:
        calls.append(modality)
        return original(encoder, modality, inputs)

    monkeypatch.setattr(Encoder, "features", counted)
    model = load_model("scenes")
    explain([PICTURE] * 3, "a red circle", model=model, batch_size=1, bottleneck={"steps": 1})
    assert calls == ["image", "text"]
    explain(PICTURE, target=np.ones(96), model=model, bottleneck={"steps": 1})
    assert calls == ["image", "text", "image"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_untouched_models_of_every_family_pass_at_every_layer(family: str, dtype: torch.dtype) -> None:
    model = make_model(family).to(dtype)
    encoder, batch = Encoder(model), make_batch(model, make_pairs(model, [3, 6, 2]))
    inputs = {
        m: {k: v.to(dtype) if v.is_floating_point() else v for k, v in t.items()} for m, t in batch.inputs.items()
    }
    check = IdentityCheck(encoder)
    for layer in (-1, 0, 1):
        check.reset()
        check(inputs, lambda modality, cut=layer: make_suffix(encoder.towers[modality], cut, dtype))  # type: ignore[misc]


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 1e-3), (torch.float64, 1e-8)])
def test_the_tolerance_goes_with_the_precision(dtype: torch.dtype, size: float) -> None:
    """A change well above the tolerance is refused; one far below it counts as rounding."""
    for factor, refused in ((10, True), (0.01, False)):
        model = scenes().to(dtype)
        direction = torch.linspace(-1, 1, 128, dtype=dtype)
        amount = factor * size
        model.vision_model.register_forward_hook(
            lambda module, inputs, output, d=amount * direction: setattr(
                output, "pooler_output", output.pooler_output + d
            )
        )
        processor = load_model("scenes").processor
        options: dict[str, Any] = {"model": model, "processor": processor, "dtype": dtype, "bottleneck": {"steps": 1}}
        if refused:
            with pytest.raises(M2IBError, match="not the model's own function"):
                explain(PICTURE, "a red circle", **options)
        else:
            explain(PICTURE, "a red circle", **options)


def test_a_module_of_the_user_s_trainer_makes_the_check() -> None:
    processor = load_model("scenes").processor
    module = M2IBModule(wrap_model(hook("vision_model")(), processor))
    tiny = load_model("scenes")
    items = [tiny.preparer.prepare(_raw(), keep_picture=False)]
    with module.explainer.at_work(), pytest.raises(M2IBError, match="the image tower"):
        module.explainer(tiny.preparer.collate(items), module.explainer.optimizer())


def _raw() -> Any:
    from m2ib_lightning.pairs.pair import RawPair

    return RawPair("a:0", PICTURE, "a.png", "a red circle")


def test_the_sizes_are_those_of_the_weights() -> None:
    """A replaced projection gives embeddings of another size than the configuration says."""
    model, processor = scenes(), load_model("scenes").processor
    model.visual_projection = nn.Sequential(model.visual_projection, nn.Linear(96, 40))
    with pytest.raises(M2IBError, match="spaces of different sizes: image 40, text 96"):
        explain(PICTURE, "a red circle", model=model, processor=processor)
    model.text_projection = nn.Sequential(model.text_projection, nn.Linear(96, 40))
    assert explain(PICTURE, target=np.ones(40), model=model, processor=processor).image is not None
    with pytest.raises(M2IBError, match=r"target must be \(40,\)"):
        explain(PICTURE, target=np.ones(96), model=model, processor=processor)


def test_a_training_makes_the_check_before_its_run_directory_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = load_model("scenes")
    changed = wrap_model(hook("text_model")(), loaded.processor)
    monkeypatch.setattr("m2ib_lightning.tasks.work.load_model", lambda name: changed)
    words = ["task=finetune", "data.limit=8", "data.batch_size=4", f"output_dir={tmp_path / 'run'}"]
    assert main(words) == 2
    assert "the text tower is not the model's own function" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
