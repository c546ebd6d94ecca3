"""Text towers like BERT: post-norm blocks that read in both directions, a mask for the padding, pooling at [CLS]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from m2ib_lightning.encoder.families.family import TowerSpec
from m2ib_lightning.encoder.families.known_blocks import block_parts
from m2ib_lightning.encoder.families.reading import first_token, not_padding, padding_mask


def bert_tower(
    core: Callable[[Any], Any],
    head: Callable[[Any, Tensor], Tensor],
    blocks: Callable[[Any], Sequence[nn.Module]] | None = None,
) -> TowerSpec:
    """Return the description of a BERT-like text tower.

    Args:
        core: model -> the BERT-like module, with ``embeddings`` and ``config``.
        head: (model, (N, D)) -> (N, E) from the last block's [CLS].
        blocks: model -> its blocks; None for ``encoder.layer`` of the core.
    """
    return TowerSpec(
        embed=lambda model, inputs: core(model).embeddings(input_ids=inputs["input_ids"]),
        blocks=blocks or (lambda model: core(model).encoder.layer),
        arguments=padding_mask(lambda model: core(model).config),
        pooled=first_token,
        reads=not_padding,
        head=head,
        max_tokens=lambda model: _positions(core(model)),
        width=lambda model: core(model).embeddings.word_embeddings.embedding_dim,
        parts=block_parts,
        words=lambda model: core(model).embeddings.word_embeddings,
    )


def _positions(core: Any) -> int:
    """Return the largest number of tokens. RoBERTa's positions begin behind the index of the padding."""
    table: nn.Embedding = core.embeddings.position_embeddings
    return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
