"""Invariant 4 on random settings: a pair alone gives what it gives in company, to 1e-9. A hundred of them when slow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from m2ib_lightning import explain, load_model
from m2ib_lightning.m2ib.statistics import Prior, Statistics
from m2ib_lightning.models import LoadedModel
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.scenes.vocabulary import WORDS
from tests.equality import assert_same_result
from tests.folders import save_clip_folder, save_siglip_folder

FAST_SEEDS = 2
"""Enough for every model, picture mode, kind of gate, prior and fit to occur."""

MODELS = ("clip", "clip-legacy", "siglip", "siglip-sentencepiece")
ODD_WORDS = ["Größe", "naïve", "日本語", "😀👍🏽", "\uff26\uff35", "e\u0301", "x\u00a0y", "نجمة"]
ODD_WORDS += ["<b>", "don't", "</s>", "<|endoftext|>", "a\u200bb"]
MODES = ("RGB", "L", "P", "RGBA", "CMYK", "1", "I;16", "F")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LoadedModel]:
    home = tmp_path_factory.mktemp("models")
    folders = [
        save_clip_folder(home / "clip", max_tokens=14),
        save_clip_folder(home / "legacy", max_tokens=14, legacy=True),
        save_siglip_folder(home / "siglip"),
        save_siglip_folder(home / "sentencepiece", sentencepiece=True),
    ]
    return {name: load_model(str(folder)) for name, folder in zip(MODELS, folders, strict=True)}


def random_statistics(rng: np.random.Generator, model: LoadedModel) -> Statistics:
    statistics = Statistics()
    for modality, tower in model.encoder.towers.items():
        for layer in (-1, 0, 1):
            mean, std = rng.normal(0, 1, tower.width), rng.uniform(0.3, 1.5, tower.width)
            statistics = statistics.with_prior(modality, layer, Prior(torch.from_numpy(mean), torch.from_numpy(std)))
    return statistics


def random_settings(rng: np.random.Generator) -> dict[str, Any]:
    def tower() -> dict[str, Any]:
        return {
            "layer": int(rng.integers(-1, 2)),
            "beta": float(rng.choice([0.0, 0.01, 0.1, 1.0])),
            "sigma": float(rng.uniform(0.3, 2)),
            "granularity": str(rng.choice(["element", "token"])),
            "prior": str(rng.choice(["unit", "data"])),
        }

    return {
        "image": tower(),
        "text": tower(),
        "steps": int(rng.integers(1, 7)),
        "noise_samples": int(rng.integers(1, 5)),
        "lr": float(rng.uniform(0.2, 2)),
        "initial_alpha": float(rng.uniform(1, 6)),
    }


def random_picture(rng: np.random.Generator) -> Image.Image:
    width, height = (int(side) for side in rng.choice([1, 2, 17, 40, 96, 130, 300], 2))
    colours = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    mode = str(rng.choice(MODES))
    return colours.convert("L").convert(mode) if mode in ("I;16", "F") else colours.convert(mode)


def random_caption(rng: np.random.Generator) -> str:
    words = rng.choice([*WORDS, *ODD_WORDS], int(rng.integers(1, 16)))
    return "".join(f"{word.upper() if rng.random() < 0.2 else word}{' ' * rng.integers(1, 3)}" for word in words)


SEEDS = [seed if seed < FAST_SEEDS else pytest.param(seed, marks=pytest.mark.slow) for seed in range(100)]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_pair_alone_is_what_it_is_in_company(seed: int, models: dict[str, LoadedModel]) -> None:
    rng = np.random.default_rng(seed)
    model = models[MODELS[seed % len(MODELS)]]
    options: dict[str, Any] = {
        "model": model,
        "bottleneck": random_settings(rng),
        "statistics": random_statistics(rng, model),
        "fit": [None, "crop", "pad", "stretch"][rng.integers(4)],
        "seed": int(rng.integers(1000)),
        "dtype": torch.float64,
    }
    count = int(rng.integers(2, 7))
    pictures = [random_picture(rng) for _ in range(count)]
    captions = [random_caption(rng) for _ in range(count)]
    together = explain(pictures, captions, batch_size=int(rng.integers(2, count + 1)), **options)
    order = rng.permutation(count)
    shuffled = explain([pictures[k] for k in order], [captions[k] for k in order], batch_size=count, **options)
    for place, index in enumerate(order):
        caption = captions[index]
        (alone,) = explain([pictures[index]], [caption], **options)
        if alone.error is not None:  # SigLIP's tokenizer may leave nothing of a caption of signs
            assert together[index].error == shuffled[place].error == alone.error
            continue
        for other in (together[index], shuffled[place]):
            assert other.tokens == alone.tokens
            assert other.pair.token_offsets == alone.pair.token_offsets
            assert_same_result(_renamed(other, alone), alone, 1e-9)
        assert_offsets_lie_in_the_caption(alone.pair.token_offsets, caption)


def _renamed(result: Attribution, like: Attribution) -> Attribution:
    """The same result under the other's key, which counts pairs."""
    return replace(result, pair=replace(result.pair, key=like.pair.key))


def assert_offsets_lie_in_the_caption(offsets: list[tuple[int, int]], caption: str) -> None:
    for start, end in offsets:
        assert 0 <= start <= end <= len(caption)
        assert caption[start:end] == caption[start:end].strip()
    assert offsets == sorted(offsets)
