"""A caption as the text tower's tokens, and where each of them stands in the caption as it was written."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from m2ib_lightning.errors import M2IBError, PairError

Offset = tuple[int, int]
"""Start and end of a token, in characters of the caption; equal where a token has no letter of its own."""

_WORD_START = "▁"  # SentencePiece's mark


@dataclass(frozen=True)
class Tokenised:
    """One caption.

    Attributes:
        ids: what the tower reads, special tokens included, without padding.
        positions: where among them the caption's tokens stand.
        tokens: those tokens, decoded.
        offsets: of those tokens.
        truncated: whether the caption was longer than the tower reads.
        unknown: how many of the tokens the vocabulary does not know.
    """

    ids: list[int]
    positions: list[int]
    tokens: list[str]
    offsets: list[Offset]
    truncated: bool
    unknown: int


class CaptionTokenizer:
    """Tokenises captions one by one.

    Fast tokenizers say themselves where their tokens stand. Others, such as SigLIP's SentencePiece, lower-case and drop
    punctuation on the way; their pieces are found again in the caption, letter by letter.

    Args:
        tokenizer: a Hugging Face tokenizer.
        max_tokens: the text tower's limit.

    Raises:
        M2IBError: if it is no Hugging Face tokenizer.
    """

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        if not hasattr(tokenizer, "is_fast"):
            raise M2IBError(f"the processor needs a Hugging Face tokenizer, got {type(tokenizer).__name__}")
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens

    def __call__(self, caption: str) -> Tokenised:
        """The caption's tokens.

        Raises:
            PairError: if there are none.
        """
        ids, positions, offsets, truncated = (self._fast if self.tokenizer.is_fast else self._slow)(caption)
        if not positions:
            raise PairError(f"the tokenizer finds no word in the caption {caption!r}")
        offsets = [full_characters(caption, start, end) for start, end in offsets]
        kept = [ids[index] for index in positions]
        return Tokenised(
            ids=ids,
            positions=positions,
            tokens=[self._decode(token, caption[start:end]) for token, (start, end) in zip(kept, offsets, strict=True)],
            offsets=offsets,
            truncated=truncated,
            unknown=sum(token == self._unknown for token in kept),
        )

    def _fast(self, caption: str) -> tuple[list[int], list[int], list[Offset], bool]:
        """Ids, positions, offsets and whether the caption was cut, from a tokenizer that knows."""
        encoding = self._encoded(caption, return_offsets_mapping=True, return_overflowing_tokens=True).encodings[0]
        positions = _words(encoding.special_tokens_mask)
        offsets = [encoding.offsets[index] for index in positions]
        return list(encoding.ids), positions, offsets, bool(encoding.overflowing)

    def _slow(self, caption: str) -> tuple[list[int], list[int], list[Offset], bool]:
        """The same from one that does not."""
        encoded = self._encoded(caption)
        positions = _words(encoded["special_tokens_mask"])
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
        """The id of unknown tokens; None where it is also the end of text (CLIP's byte pairs know everything)."""
        tokenizer = self.tokenizer
        unknown: int | None = tokenizer.unk_token_id
        return None if tokenizer.unk_token == tokenizer.eos_token else unknown

    def _decode(self, token: int, written: str) -> str:
        """The token as text; what the caption says where the token alone is no text (unknown, or part of a letter)."""
        text: str = self.tokenizer.decode([token]).strip()
        return written if "\N{REPLACEMENT CHARACTER}" in text or token == self.tokenizer.unk_token_id else text


def _words(special: Sequence[int]) -> list[int]:
    return [index for index, flag in enumerate(special) if not flag]


def full_characters(caption: str, start: int, end: int) -> Offset:
    r"""Without the spaces that some tokenizers count to a word, with the accents that stand behind its last letter.

    >>> full_characters("a  red star", 1, 6)
    (3, 6)
    >>> full_characters("nai\u0308ve", 2, 3)
    (2, 4)
    """
    written = caption[start:end]
    if not written.strip():
        return (start, start)
    start, end = start + len(written) - len(written.lstrip()), start + len(written.rstrip())
    while end < len(caption) and unicodedata.combining(caption[end]):
        end += 1
    return (start, end)


def align(pieces: Sequence[str], caption: str) -> list[Offset]:
    """Where the pieces of a caption stand in it, though case, punctuation, spaces and letter forms may have changed.

    >>> align(["▁don", "t", "▁", "stop"], "Don't  STOP!")
    [(0, 3), (4, 5), (5, 5), (7, 11)]
    """
    letters = [(letter, index) for index, written in enumerate(caption) for letter in _plain(written)]
    cursor, last = 0, 0
    offsets = []
    for piece in pieces:
        start: int | None = None
        for letter in _plain(piece.replace(_WORD_START, "")):
            skipped = cursor
            while skipped < len(letters) and letters[skipped][0] != letter and not letters[skipped][0].isalnum():
                skipped += 1
            found = skipped < len(letters) and (letters[skipped][0] == letter or letter.isalnum())
            if not found:  # a sign that the caption does not have: the piece gets its other letters
                continue
            start = letters[skipped][1] if start is None else start
            cursor, last = skipped + 1, letters[skipped][1] + 1
        offsets.append((last, last) if start is None else (start, last))
    return offsets


def _plain(text: str) -> Iterator[str]:
    """Letters without case, compatibility forms and composition: ``É`` is ``e`` and an accent."""
    yield from unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
