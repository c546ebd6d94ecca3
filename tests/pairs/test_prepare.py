"""Prepared pairs: tokens, offsets, padding, and the pairs that fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.models import LoadedModel, load_model
from m2ib_lightning.pairs.pair import Pair, PreparedPair, RawPair
from m2ib_lightning.pairs.prepare import Preparer
from m2ib_lightning.scenes.tokenizer import BOS_ID, EOS_ID, PAD_ID
from tests.folders import save_clip_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(str(save_clip_folder(tmp_path_factory.mktemp("clip"), max_tokens=10)))


def prepare(model: LoadedModel, caption: str | None, keep_picture: bool = False) -> PreparedPair | Pair:
    raw = RawPair("t:0", Image.new("RGB", (90, 60)), "u", caption)
    return model.preparer.prepare(raw, keep_picture=keep_picture)


def good(model: LoadedModel, caption: str) -> PreparedPair:
    prepared = prepare(model, caption)
    assert isinstance(prepared, PreparedPair)
    return prepared


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("a red circle", ["a", "red", "circle"]),
        ("A  Red   CIRCLE", ["A", "Red", "CIRCLE"]),
        (" a red circle ", ["a", "red", "circle"]),
    ],
)
def test_offsets_point_into_the_caption_as_given(model: LoadedModel, caption: str, words: list[str]) -> None:
    pair = good(model, caption).pair
    assert [caption[start:end] for start, end in pair.token_offsets] == words
    assert pair.tokens == [word.lower() for word in words]
    assert pair.token_positions == [1, 2, 3]
    assert not pair.truncated
    assert pair.unknown == 0


def test_unknown_tokens_are_counted_and_shown_as_written(model: LoadedModel) -> None:
    pair = good(model, "a red é").pair
    assert pair.unknown > 0
    assert pair.tokens[2] == "é"


def test_long_captions_are_truncated_and_marked(model: LoadedModel) -> None:
    prepared = good(model, "a red circle and a blue star and a ring")
    assert prepared.pair.truncated
    assert len(prepared.input_ids) == 10
    assert prepared.input_ids[-1] == EOS_ID
    assert len(prepared.pair.tokens) == 8


def test_captions_are_padded_on_the_right(model: LoadedModel) -> None:
    batch = model.preparer.collate([good(model, "ring"), prepare(model, ""), good(model, "a red ring")])
    ids = batch.inputs["text"]["input_ids"].tolist()
    assert [row[0] for row in ids] == [BOS_ID, BOS_ID]
    assert ids[0][2:] == [EOS_ID, PAD_ID, PAD_ID]
    assert len(batch) == 2
    assert len(batch.failed) == 1


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        (None, "missing"),
        ("a \ud800 star", "half characters"),
        (["a cat", "a dog"], "must be text, got list"),
    ],
)
def test_captions_that_cannot_be_explained(model: LoadedModel, caption: Any, message: str) -> None:
    failed = prepare(model, caption)
    assert isinstance(failed, Pair)
    assert failed.error is not None
    assert message in failed.error


def test_a_special_token_in_a_caption_is_text(model: LoadedModel) -> None:
    prepared = good(model, "red<|endoftext|>")
    assert list(prepared.input_ids).count(EOS_ID) == 1
    assert prepared.input_ids[-1] == EOS_ID


def test_a_processor_without_a_tokenizer_is_refused() -> None:
    with pytest.raises(M2IBError, match="needs a Hugging Face tokenizer, got NoneType"):
        Preparer(object(), 10)


def test_any_exception_of_a_decoder_is_an_error_of_its_pair(model: LoadedModel) -> None:
    class Odd(Image.Image):
        def load(self) -> None:
            raise ZeroDivisionError("odd")

    failed = model.preparer.prepare(RawPair("t:0", Odd(), "u", "a ring"), keep_picture=False)
    assert isinstance(failed, Pair)
    assert "ZeroDivisionError: odd" in str(failed.error)


def test_a_copy_for_display_is_kept_only_on_request(model: LoadedModel, tmp_path: Path) -> None:
    raw = RawPair("t:0", Image.new("RGB", (2000, 1000)), "u", "a ring")
    drawn = model.preparer.prepare(raw, keep_picture=True)
    plain = model.preparer.prepare(raw, keep_picture=False)
    assert isinstance(drawn, PreparedPair)
    assert isinstance(plain, PreparedPair)
    assert drawn.pair.picture is not None
    assert drawn.pair.picture.size == (512, 256)
    assert plain.pair.picture is None
    assert drawn.pair.image_size == plain.pair.image_size == (2000, 1000)
