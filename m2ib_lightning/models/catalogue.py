"""The models that can be explained: families, how to name a member, and what each was tested with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from m2ib_lightning.encoder.families.family import refused_families, registered_families


class KnownModel(NamedTuple):
    """A family of models.

    Attributes:
        title: name of the family.
        cls: name of its class, which ``architectures`` in ``config.json`` gives.
        example: a name for ``model.name`` and ``load_model``, or what to give.
        tested: ``bundled model``, ``random weights`` (of the real class, against the model's own embeddings), or
            ``not tried``.
    """

    title: str
    cls: str
    example: str
    tested: str


_FORMATS = [
    KnownModel(
        "checkpoints in OpenAI CLIP's format (CheXzero, CXR-RePaiR)", "CLIPModel", "openai:FILE", "random weights"
    )
]
"""Files of other programs that are loaded as a class of transformers."""


def list_models() -> list[KnownModel]:
    """Return the families of models that can be explained, with a name to load a member of each by.

    No weights of a hub were tried unless ``tested`` says so. Every run compares the towers with the model's own
    embeddings on its first batch.
    """
    known = [KnownModel(about.title, cls, about.example, about.tested) for cls, about in registered_families().items()]
    return sorted([*known, *_FORMATS], key=lambda model: model.title.lower())


def models_text() -> str:
    """Return the text of ``--models``."""
    models = list_models()
    rows = [["family", "class", "example of model.name", "tested with"], *([*model] for model in models)]
    refused = [f"  {name}: {reason}." for name, reason in refused_families().items()]
    how = "A folder of one of these classes is named by its path."
    return "\n".join([*_aligned(rows), "", how, "", "Refused:", *refused])


def models_markdown() -> str:
    """Return the table of ``--models`` in Markdown, for the README."""
    rows = [f"| {model.title} | `{model.cls}` | {_code(model.example)} | {model.tested} |" for model in list_models()]
    return "\n".join(["| family | class | a member | tested with |", "| --- | --- | --- | --- |", *rows])


def _code(example: str) -> str:
    return example if " " in example else f"`{example}`"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
