"""Every kind of OpenCLIP tower: identity with ``encode_image`` and ``encode_text``, batches, methods, mutants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from m2ib_lightning import explain, load_model
from m2ib_lightning.config import MODALITIES
from m2ib_lightning.encoder.families.family import no_arguments
from m2ib_lightning.encoder.families.reading import no_mask
from m2ib_lightning.encoder.identity import IdentityCheck
from m2ib_lightning.encoder.suffix import make_suffix
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.models import LoadedModel
from tests.equality import relative_difference

open_clip: Any = pytest.importorskip("open_clip", reason="make test-open-clip installs OpenCLIP")
members: Any = pytest.importorskip("tests.open_clip.members")

CAPTIONS = ["a red star", "the blue circle next to a green square", "star"]
PICTURES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40 + 10 * seed, 60, 3), np.uint8))
    for seed in range(3)
]
Folder = Callable[[str], Path]


def load(folder: Path) -> LoadedModel:
    return load_model(f"open_clip:local-dir:{folder}")


def inputs_of(model: LoadedModel, *more: str) -> dict[Any, Any]:
    preparer = model.preparer
    pixels = torch.stack([preparer.framing(picture)[0] for picture in PICTURES])
    text = preparer.pad([preparer.read_caption(caption)[0] for caption in (*CAPTIONS, *more)])
    return {"image": {"pixel_values": pixels}, "text": text}


@torch.no_grad()
def by_open_clip(model: LoadedModel, folder: Path, *more: str) -> dict[str, torch.Tensor]:
    """Embeddings by OpenCLIP alone: its transform, its tokenizer and its functions."""
    module = model.encoder.model
    cfg = open_clip.transform.PreprocessCfg(**module.visual.preprocess_cfg)
    transform = open_clip.transform.image_transform_v2(cfg, is_train=False)
    pixels = torch.stack([transform(picture) for picture in PICTURES])
    ids = open_clip.get_tokenizer(f"local-dir:{folder}")([*CAPTIONS, *more])
    return {
        "image": module.encode_image(pixels, normalize=False),
        "text": module.encode_text(ids, normalize=False),
    }


@pytest.mark.parametrize("name", members.MEMBERS)
@torch.no_grad()
def test_every_cut_gives_open_clips_embedding(name: str, member: Folder) -> None:
    model = load(member(name))
    too_long = "red star " * 20
    inputs, expected = inputs_of(model, too_long), by_open_clip(model, member(name), too_long)
    for modality in MODALITIES:
        tower = model.encoder.towers[modality]
        assert tower.embedding_size == 48
        for layer in range(-1, len(tower.blocks) - 1):
            hidden = tower.prefix(inputs[modality], layer)
            assert hidden.z.shape[1] <= tower.max_tokens
            rubbish = hidden.z.masked_fill(~hidden.valid[..., None], 7.0)
            draws = rubbish.repeat_interleave(2, 0)
            plain = tower.suffix(draws, layer, hidden.layout.repeated(2))
            fused = make_suffix(tower, layer, torch.float32)(draws, hidden.layout.repeated(2))
            for embedding in (plain[::2], plain[1::2], fused[::2]):
                assert relative_difference(embedding, expected[modality]) < 2e-6  # float32


@pytest.mark.parametrize("name", members.MEMBERS)
def test_a_pair_is_explained_alike_alone_and_in_a_batch(name: str, member: Folder) -> None:
    model = load(member(name))
    options: dict[str, Any] = {"bottleneck": {"steps": 3}}
    batch = explain(PICTURES, CAPTIONS, model=model, **options)
    expected = by_open_clip(model, member(name))
    for index in (0, 2):
        alone = explain(PICTURES[index], CAPTIONS[index], model=model, **options)
        assert relative_difference(alone.image_saliency, batch[index].image_saliency) < 1e-5
        assert relative_difference(alone.text_saliency, batch[index].text_saliency) < 1e-5
        cosine = torch.cosine_similarity(expected["image"][index], expected["text"][index], 0)
        assert batch[index].similarity == pytest.approx(float(cosine), abs=1e-5)
    assert batch[1].tokens[:2] == ["the", "blue"]
    assert batch[0].image_saliency.shape == (4, 4)


@pytest.mark.parametrize("method", ["gradcam", "rise:samples=20", "occlusion"])
@pytest.mark.parametrize("name", ["vit", "vit-bert", "eva", "coca"])
def test_other_methods_explain(name: str, method: str, member: Folder) -> None:
    batch = explain(PICTURES, CAPTIONS, model=load(member(name)), method=method)
    assert all(np.isfinite(result.image_saliency).all() and np.ptp(result.image_saliency) > 0 for result in batch)
    assert len(batch[1].text_saliency) == len(batch[1].tokens)


MUTANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "without rotary positions": ("eva", "image", {"arguments": no_arguments}),
    "without rotary positions, pooled by attention": ("eva-attention-pool", "image", {"arguments": no_arguments}),
    "without the padding mask": ("vit-bert", "text", {"arguments": no_mask}),
    "without the padding mask, mean": ("vit-xlm", "text", {"arguments": no_mask}),
    "the padding is pooled too": ("vit-xlm", "text", {"reads": None}),
    "the padding is left out": (
        "padding-read",
        "text",
        {"reads": lambda model, inputs: inputs["attention_mask"].bool()},
    ),
    "the class token sees itself": ("coca", "text", {"attends": None}),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_identity_check_finds_a_wrong_tower(mutant: str, member: Folder) -> None:
    name, modality, changes = MUTANTS[mutant]
    model = load(member(name))
    encoder, inputs = model.encoder, inputs_of(model)

    def check() -> None:
        IdentityCheck(encoder)(inputs, lambda m: make_suffix(encoder.towers[m], -1, torch.float32))

    check()
    tower: Any = encoder.towers[modality]  # type: ignore[index]
    tower.spec = replace(tower.spec, parts=None, **changes)
    with pytest.raises(M2IBError, match="is not the model's own function"):
        check()


def test_other_padding_is_found_by_the_identity_check(member: Folder) -> None:
    model = load(member("vit-bert"))
    encoder, inputs = model.encoder, inputs_of(model)
    inputs["text"]["input_ids"][inputs["text"]["attention_mask"] == 0] = 7
    tower = encoder.towers["text"]
    tower.spec = replace(tower.spec, reads=lambda model, inputs: inputs["attention_mask"].bool())
    with pytest.raises(M2IBError, match=r"text tower is not the model's own function.*those of encode_text"):
        IdentityCheck(encoder)(inputs, lambda m: make_suffix(encoder.towers[m], -1, torch.float32))


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture", ["EVA02-B-16", "PE-Core-T-16-384", "MobileCLIP-B", "ViTamin-S", "ViT-B-16-SigLIP2"]
)
@torch.no_grad()
def test_open_clips_own_architectures(architecture: str) -> None:
    from m2ib_lightning.encoder.towers import Encoder
    from tests.zoo import randomise

    cfg = open_clip.get_model_config(architecture)
    text = {key: value for key, value in cfg["text_cfg"].items() if "tokenizer" not in key}
    text |= {"vocab_size": 80, "width": 32, "heads": 4, "layers": 2, "context_length": 16}
    model = open_clip.CustomTextCLIP(cfg["embed_dim"], cfg["vision_cfg"], text).eval()
    model.visual.trunk.blocks = model.visual.trunk.blocks[:2]
    randomise(model)
    tower = Encoder(model).towers["image"]
    inputs = {"pixel_values": torch.randn(2, 3, *model.visual.image_size)}
    hidden = tower.prefix(inputs, 0)
    rows, columns = tower.grids(inputs)[0]
    assert hidden.z.shape[1] == tower.spec.prefix_tokens + rows * columns == tower.max_tokens
    embedding = make_suffix(tower, 0, torch.float32)(hidden.z, hidden.layout)
    assert relative_difference(embedding, model.encode_image(inputs["pixel_values"])) < 2e-6  # float32


@pytest.mark.parametrize("architecture", ["RN50", "convnext_base", "MobileCLIP-S1"])
def test_convolutional_towers_are_refused(architecture: str) -> None:
    from m2ib_lightning.encoder.families.open_clip_image import image_tower

    with torch.device("meta"):
        cfg = open_clip.get_model_config(architecture)
        visual = open_clip.model._build_vision_tower(cfg["embed_dim"], cfg["vision_cfg"])
    with pytest.raises(M2IBError, match="its image tower is a convolutional network"):
        image_tower(visual)
