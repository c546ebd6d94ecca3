"""Words that the text tower never reads carry no information: in results, tables and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import AutoTokenizer, CLIPModel

from m2ib_lightning import explain, load_attributions, load_model
from m2ib_lightning.cli import main
from m2ib_lightning.models import LoadedModel
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.drawing import facts_of
from m2ib_lightning.results.spans import token_spans
from m2ib_lightning.run.differences import differences
from tests.folders import save_clip_folder

PICTURE = Image.new("RGB", (40, 40), (200, 30, 30))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the first CLIP models, which pool at the largest id, with a token above EOS (textual inversion)."""
    folder = save_clip_folder(tmp_path_factory.mktemp("legacy"), legacy=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.add_tokens(["sks"]) == 1
    tokenizer.save_pretrained(folder)
    model: Any = CLIPModel.from_pretrained(folder)
    embeddings = model.text_model.embeddings
    words = embeddings.token_embedding.weight.detach()
    embeddings.token_embedding = nn.Embedding.from_pretrained(torch.cat([words, words[:1]]))
    model.config.text_config.vocab_size = len(words) + 1
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    return load_model(str(folder))


@pytest.mark.parametrize("method", ["m2ib:steps=2", "saliency", "random", "centre", "attention_rollout", "occlusion"])
@pytest.mark.parametrize(
    ("caption", "unread"), [("red sks blue star", [2, 3]), ("sks red", [1]), ("red blue sks", []), ("red star", [])]
)
def test_no_method_gives_nats_to_words_behind_the_pooled_token(
    caption: str, unread: list[int], method: str, model: LoadedModel
) -> None:
    result = explain(PICTURE, caption, model=model, method=method)
    assert result.pair.unread == unread
    assert (result.text_saliency[unread] == 0).all()
    assert (result.text_heatmap[unread] == 0).all()
    read = np.delete(result.text_heatmap, unread)
    assert len(read) < 2 or read.max() == 1 or np.ptp(np.delete(result.text_saliency, unread)) == 0
    assert [span.value for span in token_spans(result)][len(read) :] == [0] * len(unread)
    assert any("never read" in fact for fact in facts_of(result)) == bool(unread)


def test_the_table_has_null_there_and_the_run_says_it_once(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    PICTURE.save(tmp_path / "a.png")
    captions = ["red sks blue star", "red star", "sks red"]
    (tmp_path / "t.csv").write_text("image,caption\n" + "".join(f"a.png,{caption}\n" for caption in captions))
    words = ["data.name=captions", f"data.path={tmp_path / 't.csv'}", f"model.name={folder}", "bottleneck.steps=2"]
    assert main([*words, f"output_dir={tmp_path / 'run'}", "trainer.enable_progress_bar=false"]) == 0
    assert "2 captions with words behind the token that the model pools at" in capsys.readouterr().out
    rows = load_attributions(tmp_path / "run").to_list()
    assert [[value is None for value in row["text_saliency"]] for row in rows] == [
        [False, False, True, True],
        [False, False],
        [False, True],
    ]
    restored = Attribution.from_row(rows[0])
    assert restored.pair.unread == [2, 3]
    assert restored.text_saliency[2:].tolist() == [0, 0]
    assert restored.to_row()["text_saliency"] == rows[0]["text_saliency"]
    assert differences(tmp_path / "run", tmp_path / "run") == []
