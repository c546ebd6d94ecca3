"""SigLIP from a folder: its own padding, its own head, and a picture that is stretched, not cropped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipImageProcessorPil, SiglipModel, SiglipProcessor

from m2ib_lightning import explain, load_model
from m2ib_lightning.images import open_image
from m2ib_lightning.scenes.vocabulary import WORDS
from tests.conftest import relative_difference
from tests.folders import save_photograph
from tests.reference import explain_reference

LIMIT = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """End of text and padding are one token, as in SigLIP."""
    path = tmp_path_factory.mktemp("siglip")
    vocabulary = {word: index for index, word in enumerate(["<unk>", "</s>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", pad_token="</s>", model_max_length=LIMIT
    )
    shared = {"intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    text = {"hidden_size": 32, "vocab_size": len(vocabulary), "max_position_embeddings": LIMIT, "projection_size": 48}
    vision = {"hidden_size": 48, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    SiglipModel(SiglipConfig(text_config=text | shared, vision_config=vision | shared)).save_pretrained(path)
    image_processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    SiglipProcessor(image_processor=image_processor, tokenizer=fast).save_pretrained(path)
    return path


def test_the_results_are_the_references(folder: Path, tmp_path: Path) -> None:
    loaded = load_model(str(folder))
    captions = ["a red circle", "the small blue star and a white ring near the square"]
    pictures = [save_photograph(tmp_path / f"{k}.png", 90 + k, 40) for k in range(2)]
    results = explain(list(pictures), captions, model=loaded, dtype=torch.float64, seed=4)
    model = loaded.encoder.model.double()
    for result, caption, picture in zip(results, captions, pictures, strict=True):
        pixels = loaded.processor.image_processor(images=[open_image(picture)], return_tensors="pt")["pixel_values"]
        ids = loaded.processor.tokenizer(caption, padding="max_length", max_length=LIMIT, return_tensors="pt").input_ids
        for modality in ("image", "text"):
            expected = explain_reference(model, modality, pixels.double(), ids, layer=1, beta=0.1, seed=4)["saliency"]
            found = getattr(result, modality).saliency.ravel()
            assert relative_difference(found, expected if modality == "image" else expected[: len(found)]) < 1e-6
    assert [len(result.tokens) for result in results] == [len(caption.split()) for caption in captions]


def test_the_whole_picture_is_seen(folder: Path) -> None:
    result = explain(np.zeros((20, 90, 3), np.uint8), "a star", model=folder)
    assert result.pair.crop == (0, 0, 90, 20)
    assert result.image_heatmap.shape == (20, 90)
    assert result.image_saliency.shape == (4, 4)
