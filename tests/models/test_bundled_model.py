"""The model that ships: plain transformers load it, it is small, and its maps mean something."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModel, AutoProcessor, AutoTokenizer, CLIPModel, CLIPTokenizer

from m2ib_lightning import explain, load_model
from m2ib_lightning.datamodules.scene_scoring import means, score_scenes
from m2ib_lightning.datamodules.scenes import SceneSource
from m2ib_lightning.models.load import BUNDLED
from m2ib_lightning.scenes.vocabulary import WORDS

FOLDER = BUNDLED["scenes"]


def score(seed: int, count: int) -> dict[str, float]:
    source = SceneSource(seed, count)
    examples = [source.example(index) for index in range(count)]
    results = explain([e.scene.image for e in examples], [e.caption.text for e in examples], batch_size=16)
    return means(score_scenes(results, examples))


def test_it_is_at_most_eight_megabytes() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 8e6


def test_plain_transformers_load_the_folder() -> None:
    assert isinstance(AutoModel.from_pretrained(FOLDER), CLIPModel)
    model, loading = CLIPModel.from_pretrained(FOLDER, output_loading_info=True)
    assert not any(loading.values())
    assert model.config.text_config.eos_token_id != 2
    processor = AutoProcessor.from_pretrained(FOLDER)
    for tokenizer in (
        processor.tokenizer,
        AutoTokenizer.from_pretrained(FOLDER),
        CLIPTokenizer.from_pretrained(FOLDER),
    ):
        for word in WORDS:
            assert len(tokenizer(word)["input_ids"]) == 3, word


def test_the_preset_and_its_statistics_are_read() -> None:
    model = load_model("scenes")
    assert model.preset.image.layer == model.preset.text.layer == -1
    for modality in ("image", "text"):
        assert model.statistics.get(modality, -1) is not None


def test_the_maps_find_what_the_caption_mentions() -> None:
    scores = score(seed=11, count=8)
    assert scores["point"] >= 0.8
    assert scores["pick"] >= 0.9
    assert scores["text_auroc"] >= 0.9


@pytest.mark.slow
def test_naming_another_object_moves_the_map() -> None:
    source = SceneSource(12, 4)
    examples = [source.example(index) for index in range(4)]
    others = [
        replace(
            example,
            scene=replace(example.scene, objects=example.scene.objects[::-1], masks=example.scene.masks[::-1]),
        )
        for example in examples
    ]
    from m2ib_lightning.scenes import UNSAID, describe

    captions = [describe(np.random.default_rng(0), [other.scene.objects[0]._replace(size=UNSAID)]) for other in others]
    results = explain([e.scene.image for e in others], [caption.text for caption in captions])
    moved = [replace(other, caption=caption) for other, caption in zip(others, captions, strict=True)]
    assert means(score_scenes(results, moved))["pick"] >= 0.8


@pytest.mark.slow
def test_the_card_tells_the_truth() -> None:
    scores = score(seed=2, count=500)
    card = (Path(FOLDER) / "README.md").read_text()
    for name, value in scores.items():
        line = next(line for line in card.splitlines() if line.startswith(f"| {name} |"))
        assert float(line.split("|")[2]) == pytest.approx(value, abs=0.006)
    assert scores["point"] >= 0.85
    assert scores["pick"] >= 0.97
    assert scores["text_auroc"] >= 0.95
