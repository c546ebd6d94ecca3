"""Offsets locate every token in its caption, whatever the tokenizer does to the text."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from m2ib_lightning.errors import PairError
from m2ib_lightning.pairs.tokens import CaptionTokenizer, align, full_characters
from m2ib_lightning.scenes.tokenizer import BOS, EOS, build_tokenizer
from tests.folders import sentencepiece_tokenizer


def byte_level_tokenizer() -> CLIPTokenizer:
    """CLIP's own class without merges: each byte of a caption is a token."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in printable]
    letters += [chr(256 + k) for k in range(256 - len(printable))]
    names = [*letters, *(f"{letter}</w>" for letter in letters), BOS, EOS]
    return CLIPTokenizer(
        vocab={name: index for index, name in enumerate(names)},
        merges=[],
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        unk_token=EOS,
    )


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {
        "bytes": byte_level_tokenizer(),
        "sentencepiece": sentencepiece_tokenizer(tmp_path_factory.mktemp("sp"), 64),
    }


CAPTIONS = [
    ("a red star", ["a", "red", "star"]),
    ("  A  RED   Star ", ["A", "RED", "Star"]),
    ("naïve Größe", ["naïve", "Größe"]),
    ("nai\u0308ve", ["nai\u0308ve"]),  # the tokenizer composes it
    ("日本語 ring", ["日本語", "ring"]),
    ("😀 star", ["😀", "star"]),
    ("نجمة star", ["نجمة", "star"]),
]


def words_of(caption: str, offsets: list[tuple[int, int]]) -> list[str]:
    """The parts of the caption that the tokens cover, joined where they touch or overlap."""
    joined: list[tuple[int, int]] = []
    for start, end in offsets:
        if start == end:
            continue
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return [caption[start:end] for start, end in joined]


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
@pytest.mark.parametrize(("caption", "words"), CAPTIONS, ids=[caption for caption, _ in CAPTIONS])
def test_the_tokens_cover_the_words(kind: str, caption: str, words: list[str], tokenizers: dict[str, Any]) -> None:
    tokenised = CaptionTokenizer(tokenizers[kind], 64)(caption)
    assert words_of(caption, tokenised.offsets) == words
    assert len(tokenised.tokens) == len(tokenised.offsets) == len(tokenised.positions)
    assert not tokenised.truncated


@pytest.mark.parametrize("kind", ["words", "bytes", "sentencepiece"])
def test_a_worker_that_is_not_forked_gives_the_same_tokens(kind: str, tokenizers: dict[str, Any]) -> None:
    """MacOS and Windows pickle the tokenizer for their workers."""
    tokenizer = build_tokenizer() if kind == "words" else tokenizers[kind]
    sent = pickle.loads(pickle.dumps(CaptionTokenizer(tokenizer, 64)))
    for caption, _ in CAPTIONS:
        assert sent(caption) == CaptionTokenizer(tokenizer, 64)(caption)


def test_dropped_punctuation_belongs_to_no_token(tokenizers: dict[str, Any]) -> None:
    tokenised = CaptionTokenizer(tokenizers["sentencepiece"], 64)("A red, (circle)!")
    assert tokenised.tokens == ["a", "red", "circle"]
    assert words_of("A red, (circle)!", tokenised.offsets) == ["A", "red", "circle"]


def test_a_caption_of_punctuation_only_is_an_error(tokenizers: dict[str, Any]) -> None:
    with pytest.raises(PairError, match="finds no word"):
        CaptionTokenizer(tokenizers["sentencepiece"], 64)("?!...")


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
def test_long_captions_are_cut(kind: str, tokenizers: dict[str, Any]) -> None:
    tokenised = CaptionTokenizer(tokenizers[kind], 8)("a red star and a red star and a red star")
    assert tokenised.truncated
    assert len(tokenised.ids) == 8
    assert len(tokenised.tokens) == len(tokenised.offsets)


def test_unknown_tokens_are_counted_and_shown_as_written(tokenizers: dict[str, Any]) -> None:
    tokenised = CaptionTokenizer(tokenizers["sentencepiece"], 64)("a ZZZ star")
    assert tokenised.unknown == 1
    assert "ZZZ" in tokenised.tokens


@given(caption=st.text(min_size=1, max_size=40).filter(lambda text: text.strip()))
@settings(deadline=None, max_examples=80)
def test_offsets_are_inside_any_caption(caption: str, tokenizers: dict[str, Any]) -> None:
    for tokenizer in tokenizers.values():
        try:
            tokenised = CaptionTokenizer(tokenizer, 64)(caption)
        except PairError:
            continue
        for start, end in tokenised.offsets:
            assert 0 <= start <= end <= len(caption)
            assert full_characters(caption, start, end) == (start, end)


@given(
    words=st.lists(st.text(st.characters(categories=("Ll", "Nd")), min_size=1, max_size=6), min_size=1, max_size=6),
    cuts=st.lists(st.integers(1, 5), min_size=6, max_size=6),
)
@settings(deadline=None, max_examples=50)
def test_align_finds_every_piece_of_plain_words(words: list[str], cuts: list[int]) -> None:
    caption = ",  ".join(words)
    pieces, expected, place = [], [], 0
    for word, cut in zip(words, cuts, strict=False):
        for start, part in ((0, word[:cut]), (len(word[:cut]), word[cut:])):
            if part:
                pieces.append(part if start else f"▁{part}")
                expected.append((place + start, place + start + len(part)))
        place += len(word) + 3
    assert align(pieces, caption) == expected
