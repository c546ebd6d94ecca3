"""SigLIP from a folder: its padding, its pooling head, and its stretched pictures."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from m2ib_lightning import explain, load_model
from m2ib_lightning.errors import M2IBError
from tests.equality import relative_difference
from tests.folders import open_image, save_photograph, save_siglip_folder
from tests.reference import explain_reference

LIMIT = 12


@pytest.fixture(scope="module", params=[False, True], ids=["fast", "sentencepiece"])
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    return save_siglip_folder(tmp_path_factory.mktemp("siglip"), sentencepiece=request.param, max_tokens=LIMIT)


def test_equals_the_reference(folder: Path, tmp_path: Path) -> None:
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
            saliency = getattr(result, modality).saliency.ravel()
            assert relative_difference(saliency, expected[: len(saliency)]) < 1e-6
    assert [len(result.tokens) for result in results] == [len(caption.split()) for caption in captions]


def test_the_model_sees_the_whole_picture(folder: Path) -> None:
    result = explain(np.zeros((20, 90, 3), np.uint8), "a star", model=folder)
    assert result.pair.crop == (0, 0, 90, 20)
    assert result.image_heatmap.shape == (20, 90)
    assert result.image_saliency.shape == (4, 4)


INSTALL = "has a SentencePiece tokenizer: pip install 'm2ib_lightning[siglip]'"


def test_without_sentencepiece_the_error_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def from_pretrained(*arguments: Any, **options: Any) -> None:
        raise ImportError("\nSiglipTokenizer requires the SentencePiece library but it was not found.")

    monkeypatch.setattr(AutoProcessor, "from_pretrained", from_pretrained)
    with pytest.raises(M2IBError, match=re.escape(INSTALL)):
        load_model(str(folder))


@pytest.mark.slow
def test_the_command_without_sentencepiece_says_what_to_install(tmp_path: Path) -> None:
    folder = save_siglip_folder(tmp_path / "model", sentencepiece=True)
    hide = (
        "import importlib.util, sys; find = importlib.util.find_spec; sys.modules['sentencepiece'] = None; "
        "importlib.util.find_spec = lambda name, *rest: None if name == 'sentencepiece' else find(name, *rest); "
    )
    code = f"{hide} from m2ib_lightning.cli import main; sys.exit(main(['model.name={folder}']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert INSTALL in done.stderr
