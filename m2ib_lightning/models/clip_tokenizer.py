"""CLIP's own tokenizer, for a checkpoint that brings none: where its vocabulary is found offline."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.files import first_line

MERGES_FILE = "bpe_simple_vocab_16e6.txt.gz"
"""OpenAI's file: a line of comment, then the merges of the byte-pair encoding in order."""

HUB_ID = "openai/clip-vit-base-patch32"

_LARGEST_FILE = 16 << 20
"""Largest size of the unpacked merges in bytes. OpenAI's have 3 MB."""

_HUGGING_FACE = (("tokenizer.json",), ("vocab.json", "merges.txt"))
"""Files in which Hugging Face keeps the vocabulary: one, or two together."""

_BYTES = 256
_SPECIAL = ("<|startoftext|>", "<|endoftext|>")


def find_tokenizer(folder: Path, vocabulary: int, context: int) -> CLIPTokenizer:
    """Return CLIP's tokenizer, from the first place that has its vocabulary.

    The places are: ``tokenizer.json``, ``vocab.json`` with ``merges.txt``, or OpenAI's file, in the folder; OpenAI's
    file in the installed package ``open_clip`` or ``clip``, which is not imported; the local cache of the hub. Nothing
    is downloaded.

    Args:
        folder: folder of the checkpoint.
        vocabulary: number of tokens of the checkpoint.
        context: largest number of tokens of a caption.

    Raises:
        M2IBError: if no place has a vocabulary, or the vocabulary does not fit the checkpoint.
    """
    for place, make in _places(folder, vocabulary):
        try:
            tokenizer = make()
        except Exception as error:  # a damaged file makes transformers raise anything
            raise M2IBError(f"could not read CLIP's vocabulary from {place}: {first_line(error)}") from error
        _check(tokenizer, place, vocabulary)
        tokenizer.model_max_length = context
        return tokenizer
    raise M2IBError(
        f"no vocabulary of CLIP's tokenizer for the checkpoint in {str(folder)!r}. Put one of these beside it: "
        f"tokenizer.json, or vocab.json with merges.txt (all on the hub, in {HUB_ID}), or OpenAI's {MERGES_FILE}. An "
        f"installed open_clip or clip package has the latter; 'hf download {HUB_ID} tokenizer.json' caches the first"
    )


def _places(folder: Path, vocabulary: int) -> Iterator[tuple[Path, Callable[[], CLIPTokenizer]]]:
    """Each file that has a vocabulary, and what reads it."""
    for place in (folder, *_packages(), *_cached()):
        for files in _HUGGING_FACE:
            if all((place / file).is_file() for file in files):
                yield place / files[0], partial(CLIPTokenizer.from_pretrained, str(place), local_files_only=True)
        if (path := place / MERGES_FILE).is_file():
            yield path, partial(_from_merges, path, vocabulary)


def _cached() -> Iterator[Path]:
    """The folder of the hub's cache, if it is there: else ``from_pretrained`` makes a tokenizer of two tokens."""
    for files in _HUGGING_FACE:
        paths = [try_to_load_from_cache(HUB_ID, file) for file in files]
        if isinstance(paths[0], str):
            yield Path(paths[0]).parent


def _packages() -> Iterator[Path]:
    for name in ("open_clip", "clip"):
        with suppress(ImportError, ValueError):
            spec = find_spec(name)
            yield from map(Path, (spec and spec.submodule_search_locations) or ())


def _from_merges(path: Path, vocabulary: int) -> CLIPTokenizer:
    """Make the tokenizer as OpenAI's ``SimpleTokenizer``: bytes, bytes that end a word, merges, two special tokens."""
    count = vocabulary - 2 * _BYTES - len(_SPECIAL)
    with gzip.open(path) as file:
        try:
            text = file.read(_LARGEST_FILE + 1).decode("utf-8")
        except (EOFError, zlib.error) as error:
            raise ValueError(f"it is damaged ({error})") from error
    if len(text) > _LARGEST_FILE:
        raise ValueError(f"it has more than {_LARGEST_FILE} characters")
    merges = [tuple(line.split()) for line in islice(text.split("\n"), 1, 1 + max(count, 0)) if line]
    if any(len(merge) != 2 for merge in merges):
        raise ValueError("each of its lines must be two parts of a word")
    symbols = list(bytes_to_unicode().values())
    words = [*symbols, *(f"{symbol}</w>" for symbol in symbols), *map("".join, merges), *_SPECIAL]
    return CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=merges)


def _check(tokenizer: Any, place: Path, vocabulary: int) -> None:
    """Check that the tokenizer has the checkpoint's tokens, and that the last one ends a caption, where CLIP pools."""
    if len(tokenizer) != vocabulary:
        raise M2IBError(
            f"the vocabulary in {place} has {len(tokenizer)} tokens, and the checkpoint's token_embedding.weight has "
            f"{vocabulary}. Put the checkpoint's own vocabulary beside it"
        )
    if tokenizer.eos_token_id != vocabulary - 1 or tokenizer.bos_token_id is None:
        raise M2IBError(
            f"the vocabulary in {place} ends captions with the token {tokenizer.eos_token_id}; OpenAI's CLIP pools at "
            f"the largest one, {vocabulary - 1}"
        )
