"""Noun chunks of a caption, found by a spaCy pipeline of the user's."""

from __future__ import annotations

from functools import cache
from typing import Any

from m2ib_lightning.errors import M2IBError, PairError
from m2ib_lightning.pairs.units.unit import Unit

PREFIX = "spacy:"
"""Start of a rule that names a pipeline, such as ``spacy:en_core_web_sm``."""


@cache
def load_pipeline(name: str) -> Any:
    """Load a spaCy pipeline that is installed, or a folder that holds one. Nothing is downloaded.

    Raises:
        M2IBError: if spaCy is not installed, or the pipeline does not exist.
    """
    try:
        import spacy
    except ImportError:
        raise M2IBError(
            f"the units {PREFIX}{name} need spaCy, which is not installed: pip install 'm2ib_lightning[phrases]', then "
            f"python -m spacy download {name}; units=phrases needs neither"
        ) from None
    try:
        return spacy.load(name)
    except (OSError, ValueError) as error:
        raise M2IBError(
            f"spaCy has no pipeline {name!r}: {str(error).splitlines()[0]} Install it with 'python -m spacy download "
            f"{name}', or give the folder of one"
        ) from None


def noun_chunks(caption: str, pipeline: Any) -> list[Unit]:
    """Return the noun chunks of a caption, without their articles.

    Args:
        caption: the caption.
        pipeline: spaCy pipeline with a parser for the caption's language.

    Raises:
        PairError: if the pipeline finds no noun chunks, because it has no parser or its language has none.
    """
    document = pipeline(caption)
    try:
        chunks = list(document.noun_chunks)
    except (NotImplementedError, ValueError) as error:
        raise PairError(f"the spaCy pipeline finds no noun chunks: {str(error).splitlines()[0]}") from None
    units = []
    for chunk in chunks:
        tokens = [token for token in chunk if token.pos_ not in ("DET", "PRON")]
        if tokens:
            last = tokens[-1]
            units.append(Unit.of(caption, tokens[0].idx, last.idx + len(last.text)))
    return units
