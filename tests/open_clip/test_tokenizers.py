"""OpenCLIP's tokenizers: the same ids for odd captions, and offsets in the caption as it was given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from m2ib_lightning import load_model
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.pairs.tokens import CaptionTokenizer

open_clip: Any = pytest.importorskip("open_clip", reason="make test-open-clip installs OpenCLIP")
from m2ib_lightning.models.open_clip_tokenizer import check_ids, cleaning, fast_tokenizer  # noqa: E402

# ruff: noqa: RUF001 - odd letters are what is tested

ODD = [
    "Don't STOP, it's 'S 'LL", "naïve café", "e\u0301te\u0301", "“quoted” — it’s", "a&amp;b &lt;3 &amp;amp; e&#769;x",
    "x\u00a0y\u200bz", "🐶👨‍👩‍👧 dog", "東京タワー", "123 4.5%", "ﬁne ﬀ", "\x00\x07bell", "A" * 400, "word " * 100,
    "<|endoftext|> hi", "İstanbul ſ 'ſ K", "a_b-c/d", "Ⅻ ½ ²", "हिन्दी", "العربية", "a\u2028b\x85c\x1cd", "ＡＢＣ",
    "mojibake â€™ s", "  spaces\t and\nlines ",
]  # fmt: skip


def test_byte_pairs_have_the_same_ids() -> None:
    tokenizer = open_clip.SimpleTokenizer()
    fast, clean = fast_tokenizer(tokenizer), cleaning(tokenizer)
    for caption in ODD:
        ids = fast(clean(caption), truncation=True, max_length=77, padding="max_length", split_special_tokens=True)
        assert ids["input_ids"] == tokenizer([caption])[0].tolist(), caption


def test_special_tokens_in_a_caption_are_text() -> None:
    tokenizer = open_clip.SimpleTokenizer()
    encoded = CaptionTokenizer(fast_tokenizer(tokenizer), 77, cleaning(tokenizer))("<end_of_text> dog")
    assert encoded.ids.count(tokenizer.eot_token_id) == 1


@pytest.mark.parametrize("name", ["vit-bert", "vit-xlm"])
def test_tokenizers_of_transformers_have_the_same_ids(name: str, member: Callable[[str], Path]) -> None:
    folder = member(name)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    preparer = load_model(f"open_clip:local-dir:{folder}").preparer
    for caption in (caption for caption in ODD if caption.isprintable()):
        ids = preparer.read_caption(caption)[0]
        expected = tokenizer([caption])[0].tolist()
        assert ids == expected[: len(ids)]
        assert set(expected[len(ids) :]) <= {tokenizer.tokenizer.pad_token_id}


@pytest.mark.parametrize(
    ("caption", "spans"),
    [
        ("a  Red\tSTAR", ["a", "Red", "STAR"]),
        ("cat  &lt; dog", ["cat", "&lt;", "dog"]),
        ("a “red” star", ["a", "“", "red", "”", "star"]),
        ("İs red", ["İ", "s", "red"]),
    ],
)
def test_offsets_are_those_of_the_given_caption(caption: str, spans: list[str]) -> None:
    tokenizer = open_clip.SimpleTokenizer()
    encoded = CaptionTokenizer(fast_tokenizer(tokenizer), 77, cleaning(tokenizer))(caption)
    found = [caption[start:end] for start, end in encoded.offsets if start < end]
    assert list(dict.fromkeys(found)) == spans


def test_offsets_where_punctuation_is_dropped() -> None:
    tokenizer = open_clip.SimpleTokenizer(clean="canonicalize")
    caption = "A red-ish star, isn't_it!"
    encoded = CaptionTokenizer(fast_tokenizer(tokenizer), 77, cleaning(tokenizer))(caption)
    words = [caption[start:end] for start, end in encoded.offsets]
    assert "".join(words).replace("-", "").replace("'", "") == "Aredishstarisntit"
    assert encoded.ids == tokenizer([caption])[0].tolist()[: len(encoded.ids)]


def test_a_separator_is_stripped_as_open_clip_strips_it(member: Callable[[str], Path]) -> None:
    folder = str(member("vit-bert"))
    tokenizer = open_clip.tokenizer.HFTokenizer(folder, context_length=16, strip_sep_token=True)
    check_ids(fast_tokenizer(tokenizer), tokenizer, cleaning(tokenizer))
    with pytest.raises(M2IBError, match="gives other ids"):
        check_ids(tokenizer.tokenizer, tokenizer, cleaning(tokenizer))


def test_other_padding_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = open_clip.SimpleTokenizer()
    fast = fast_tokenizer(tokenizer)
    monkeypatch.setattr(type(fast), "pad_token_id", 49407)
    with pytest.raises(M2IBError, match="gives other ids"):
        check_ids(fast, tokenizer, cleaning(tokenizer))


def test_random_tokenizers_are_refused() -> None:
    with pytest.raises(M2IBError, match="drops words at random"):
        fast_tokenizer(open_clip.SimpleTokenizer(reduction_mask="simple"))
    with pytest.raises(M2IBError, match="must be a tokenizer of OpenCLIP"):
        fast_tokenizer("a word")
