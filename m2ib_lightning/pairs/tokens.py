"""Tokenise captions, and locate each token in the characters of its caption."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from m2ib_lightning.errors import M2IBError, PairError
from m2ib_lightning.pairs.cleaning import Clean, original_offsets

Offset = tuple[int, int]
"""Start and end of a token, in characters of the caption. They are equal for a token without a letter."""

_WORD_START = "▁"  # SentencePiece's mark

_LETTERS_PER_TOKEN = 1.5
"""Fewest letters per token of a word that the vocabulary knows."""


@dataclass(frozen=True)
class Tokenised:
    """A tokenised caption.

    Attributes:
        ids: token ids that the tower reads, with special tokens, without padding.
        positions: indices in ``ids`` of the tokens that are not special.
        tokens: decoded tokens at these positions.
        offsets: character offsets of these tokens.
        truncated: whether the caption was longer than the tower reads.
        unknown: number of these tokens that are outside the vocabulary, or spell out a word letter by letter.
    """

    ids: list[int]
    positions: list[int]
    tokens: list[str]
    offsets: list[Offset]
    truncated: bool
    unknown: int


class CaptionTokenizer:
    """Tokenises captions one by one.

    Fast tokenizers return the offsets of their tokens; slow ones do not. The pieces of a slow tokenizer are aligned
    with the caption letter by letter. They may differ from it: SigLIP's SentencePiece lower-cases the text and drops
    punctuation.

    Args:
        tokenizer: Hugging Face tokenizer.
        max_tokens: longest sequence that the text tower reads.
        clean: function that is applied to each caption first; None for none.

    Raises:
        M2IBError: if ``tokenizer`` is not a Hugging Face tokenizer.
    """

    def __init__(self, tokenizer: Any, max_tokens: int, clean: Clean | None = None) -> None:
        if not hasattr(tokenizer, "is_fast"):
            raise M2IBError(f"the processor needs a Hugging Face tokenizer, got {type(tokenizer).__name__}")
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.clean = clean

    def __call__(self, caption: str) -> Tokenised:
        """Tokenise a caption.

        Raises:
            PairError: if the caption has no tokens.
        """
        text = caption if self.clean is None else self.clean(caption)
        ids, positions, offsets, truncated = (self._fast if self.tokenizer.is_fast else self._slow)(text)
        if not positions:
            raise PairError(f"the tokenizer finds no word in the caption {caption!r}")
        if text != caption:
            offsets = original_offsets(offsets, text, caption)
        offsets = [full_characters(caption, start, end) for start, end in offsets]
        caption_ids = [ids[index] for index in positions]
        return Tokenised(
            ids=ids,
            positions=positions,
            tokens=[
                self._decode(token_id, caption[start:end])
                for token_id, (start, end) in zip(caption_ids, offsets, strict=True)
            ],
            offsets=offsets,
            truncated=truncated,
            unknown=len(
                {index for index, token_id in enumerate(caption_ids) if token_id == self._unknown}
                | spelt_out(caption, offsets)
            ),
        )

    def _fast(self, caption: str) -> tuple[list[int], list[int], list[Offset], bool]:
        """Ids, positions, offsets and whether the caption was cut, from a fast tokenizer."""
        encoding = self._encoded(caption, return_offsets_mapping=True, return_overflowing_tokens=True).encodings[0]
        positions = _non_special(encoding.special_tokens_mask)
        offsets = [encoding.offsets[index] for index in positions]
        return list(encoding.ids), positions, offsets, bool(encoding.overflowing)

    def _slow(self, caption: str) -> tuple[list[int], list[int], list[Offset], bool]:
        """Ids, positions, offsets and whether the caption was cut, from a slow tokenizer."""
        encoded = self._encoded(caption)
        positions = _non_special(encoded["special_tokens_mask"])
        pieces = self.tokenizer.tokenize(caption, split_special_tokens=True)
        offsets = align(pieces, caption)[: len(positions)]
        return list(encoded["input_ids"]), positions, offsets, len(pieces) > len(positions)

    def _encoded(self, caption: str, **options: bool) -> Any:
        return self.tokenizer(
            caption,
            truncation=True,
            max_length=self.max_tokens,
            return_special_tokens_mask=True,
            split_special_tokens=True,  # "<|endoftext|>" in a caption is text: the tower must not stop there
            **options,
        )

    @property
    def _unknown(self) -> int | None:
        """The id of unknown tokens; None if it is also the end of text (CLIP's byte pairs cover any text)."""
        tokenizer = self.tokenizer
        unknown: int | None = tokenizer.unk_token_id
        return None if tokenizer.unk_token == tokenizer.eos_token else unknown

    @property
    def _word_end(self) -> str:
        """The suffix of the vocabulary's pieces that end a word, such as CLIP's ``</w>``; empty for none."""
        model = self.tokenizer.backend_tokenizer.model if self.tokenizer.is_fast else None
        return getattr(model, "end_of_word_suffix", None) or ""

    def _decode(self, token_id: int, span: str) -> str:
        """The token as text; its span of the caption if the token is unknown or part of a letter."""
        text: str = self.tokenizer.decode([token_id])
        # CLIP's tokenizer loses the decoder that takes the suffix away when it is pickled for a worker.
        text = text.removesuffix(self._word_end).strip()
        return span if "\N{REPLACEMENT CHARACTER}" in text or token_id == self.tokenizer.unk_token_id else text


def _non_special(special: Sequence[int]) -> list[int]:
    """Positions of the tokens that are not special."""
    return [index for index, flag in enumerate(special) if not flag]


def full_characters(caption: str, start: int, end: int) -> Offset:
    r"""Strip spaces from the span of a token, and extend it by the accents that follow its last letter.

    >>> full_characters("a  red star", 1, 6)
    (3, 6)
    >>> full_characters("nai\u0308ve", 2, 3)
    (2, 4)
    """
    span = caption[start:end]
    if not span.strip():
        return (start, start)
    start, end = start + len(span) - len(span.lstrip()), start + len(span.rstrip())
    while end < len(caption) and unicodedata.combining(caption[end]):
        end += 1
    return (start, end)


def spelt_out(caption: str, offsets: Sequence[Offset]) -> set[int]:
    """Return the indices of the tokens that spell out a word letter by letter: the vocabulary lacks the word.

    A word counts if its tokens have fewer than 1.5 letters in the mean. Digits and scripts without capital letters,
    whose tokens are often single characters, do not count.

    >>> sorted(spelt_out("red xyz", [(0, 3), (4, 5), (5, 6), (6, 7)]))
    [1, 2, 3]
    """
    indices: set[int] = set()
    for word in re.finditer(r"[^\W\d_]{2,}", caption):
        if word.group().lower() != word.group().upper():
            pieces = [k for k, (start, end) in enumerate(offsets) if word.start() <= start < end <= word.end()]
            if len(word.group()) < _LETTERS_PER_TOKEN * len(pieces):
                indices.update(pieces)
    return indices


def align(pieces: Sequence[str], caption: str) -> list[Offset]:
    """Locate each piece of a caption in it, although case, punctuation, spaces and letter forms may have changed.

    >>> align(["▁don", "t", "▁", "stop"], "Don't  STOP!")
    [(0, 3), (4, 5), (5, 5), (7, 11)]
    """
    letters = [(letter, index) for index, character in enumerate(caption) for letter in _plain(character)]
    cursor, last = 0, 0
    offsets = []
    for piece in pieces:
        start: int | None = None
        for letter in _plain(piece.replace(_WORD_START, "")):
            position = cursor
            while position < len(letters) and letters[position][0] != letter and not letters[position][0].isalnum():
                position += 1
            matches = position < len(letters) and (letters[position][0] == letter or letter.isalnum())
            if not matches:  # the caption lacks this character: the span comes from the piece's other letters
                continue
            start = letters[position][1] if start is None else start
            cursor, last = position + 1, letters[position][1] + 1
        offsets.append((last, last) if start is None else (start, last))
    return offsets


def _plain(text: str) -> Iterator[str]:
    """Yield lower-case, decomposed letters: ``É`` becomes ``e`` and an accent."""
    yield from unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
