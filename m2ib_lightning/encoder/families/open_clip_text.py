"""OpenCLIP's text towers: its own transformer, CoCa's with a class token at the end, and towers of transformers.

Legend: B pairs, N sequences (each a draw of a pair), T tokens, D width, P pooled width, E embedding size.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from m2ib_lightning.encoder.families.bert import bert_tower
from m2ib_lightning.encoder.families.family import Family, Inputs, TowerSpec
from m2ib_lightning.encoder.families.known_blocks import block_parts
from m2ib_lightning.encoder.families.reading import (
    Position,
    first_of,
    first_token,
    largest_id,
    last_token,
    up_to,
)
from m2ib_lightning.encoder.layout import Layout
from m2ib_lightning.errors import M2IBError

_BERT_LIKE = ("bert", "roberta", "xlm-roberta", "camembert")
"""Types of the towers of transformers with BERT's module names."""

_AT_FIRST_TOKEN = ("ClsPooler", "ClsLastHiddenStatePooler")


def with_text(image: TowerSpec, model: Any) -> Family:
    """Return the family of a model with this image tower, and with the text tower that it has.

    Raises:
        M2IBError: if the text tower is of an unknown class, or pools in an unknown way.
    """
    text = text_of(model)
    if type(text).__name__ == "HFTextEncoder":
        return Family(image, _hf_tower(text), text_arguments=("input_ids",))
    if not hasattr(text, "token_embedding"):
        raise M2IBError(f"the text tower of this OpenCLIP model is a {type(text).__name__}, which is not supported")
    if getattr(text, "cls_emb", None) is not None:
        return Family(image, _coca_tower(text), padding="max_length", text_arguments=("input_ids",))
    kind = _pooling(text)
    if getattr(text, "use_pad_mask", False):
        raise M2IBError("this OpenCLIP text tower masks its padding (use_pad_mask), which is not supported")
    reads_padding = text.attn_mask is None or kind == "last"
    padding = "max_length" if reads_padding else True
    return Family(image, _own_tower(text, kind), padding=padding, text_arguments=("input_ids",))


def text_of(model: Any) -> Any:
    """Return the module with the text tower. ``open_clip.CLIP`` holds its parts itself."""
    return getattr(model, "text", model)


def _pooling(text: Any) -> str:
    kind: str = text.text_pool_type if hasattr(text, "text_pool_type") else text.pool_type
    if kind not in ("argmax", "eos", "last", "first"):
        raise M2IBError(f"this OpenCLIP text tower pools by {kind!r}; supported are argmax, eos, last and first")
    return kind


def _eos(model: Any) -> int:
    text = text_of(model)
    end: int = text.text_eos_id if hasattr(text, "text_eos_id") else text.eos_id
    return end


_POSITIONS: dict[str, Position] = {
    "argmax": largest_id,
    "eos": first_of(_eos),
    "last": last_token,
    "first": first_token,
}


def _own_tower(text: Any, kind: str) -> TowerSpec:
    """Return the description of OpenCLIP's own text transformer, which pools by ``kind``."""
    causal = text.attn_mask is not None
    pooled = _POSITIONS[kind]
    return TowerSpec(
        embed=_embed,
        blocks=lambda model: text_of(model).transformer.resblocks,
        arguments=_causal_mask,
        pooled=pooled,
        reads=up_to(pooled) if causal and kind != "last" else None,
        head=_head,
        max_tokens=lambda model: text_of(model).positional_embedding.shape[0],
        width=lambda model: text_of(model).positional_embedding.shape[1],
        own=_own,
        parts=block_parts,
        causal=causal,
        words=lambda model: text_of(model).token_embedding,
    )


def _embed(model: Any, inputs: Inputs) -> Tensor:
    text, ids = text_of(model), inputs["input_ids"]
    embedded: Tensor = text.token_embedding(ids) + text.positional_embedding[: ids.shape[1]]
    return embedded


def _own(model: Any, inputs: Inputs) -> Tensor:
    """Return what ``encode_text`` gives for captions padded with 0 to the full length, as the tokenizer pads them."""
    ids = inputs["input_ids"]
    missing = text_of(model).context_length - ids.shape[1]
    embedding: Tensor = model.encode_text(F.pad(ids, (0, missing)), normalize=False)
    return embedding


def _head(model: Any, pooled: Tensor) -> Tensor:
    text = text_of(model)
    normed: Tensor = text.ln_final(pooled)
    projection = text.text_projection
    if projection is None:
        return normed
    return projection(normed) if isinstance(projection, nn.Linear) else normed @ projection


def _causal_mask(model: Any, hidden: Tensor, layout: Layout) -> dict[str, Any]:
    mask, tokens = text_of(model).attn_mask, hidden.shape[1]
    return {"attn_mask": None if mask is None else mask[:tokens, :tokens]}


def _key_mask(model: Any, hidden: Tensor, layout: Layout) -> dict[str, Any]:
    """Return the mask (N heads, T, T) to add: the causal one, if any, and the tokens that nothing attends to."""
    mask = torch.zeros(len(hidden), *[hidden.shape[1]] * 2, dtype=hidden.dtype, device=hidden.device)
    mask = mask.masked_fill(~layout.attended[:, None], -torch.inf)
    causal = _causal_mask(model, hidden, layout)["attn_mask"]
    mask = mask if causal is None else mask + causal
    return {"attn_mask": mask.repeat_interleave(text_of(model).heads, 0)}


def _coca_tower(text: Any) -> TowerSpec:
    """Return the description of CoCa's text tower, which appends a class token and pools there.

    Its older weights were trained with a mask that is one position off (``correct_cls_mask`` is false): a token is
    attended to if the one before it is a word, and the class token if the caption has no padding.
    """
    corrected: bool = text.correct_cls_mask

    def attends(model: Any, inputs: Inputs) -> Tensor:
        words: Tensor = inputs["input_ids"] != text_of(model).pad_id
        always = words.new_ones(len(words), 1)
        return torch.cat([words, always] if corrected else [always, words], 1)

    def reads(model: Any, inputs: Inputs) -> Tensor:
        reads = attends(model, inputs).clone()
        reads[:, -1] = True  # its own state is pooled, whether or not it is attended to
        return reads

    return TowerSpec(
        embed=lambda model, inputs: text_of(model)._embeds(inputs["input_ids"])[0],
        blocks=lambda model: text_of(model).transformer.resblocks,
        arguments=_key_mask,
        pooled=lambda model, inputs: last_token(model, inputs) + 1,
        reads=reads,
        attends=attends,
        head=_head,
        max_tokens=lambda model: text_of(model).positional_embedding.shape[0],
        width=lambda model: text_of(model).positional_embedding.shape[1],
        own=_own,
        words=lambda model: text_of(model).token_embedding,
    )


def _hf_tower(text: Any) -> TowerSpec:
    """Return the description of a text tower of transformers. It masks the padding by its id."""
    kind, pooler = text.config.model_type, type(text.pooler).__name__
    if kind not in _BERT_LIKE:
        raise M2IBError(
            f"the text tower of this OpenCLIP model is a {kind!r}, which is not supported; there is "
            f"{', '.join(_BERT_LIKE)}"
        )
    if pooler not in (*_AT_FIRST_TOKEN, "MeanPooler"):
        raise M2IBError(
            f"this OpenCLIP text tower pools by {pooler}, which is not supported; there is "
            f"{', '.join(_AT_FIRST_TOKEN)} and MeanPooler"
        )
    at_first = pooler in _AT_FIRST_TOKEN
    tower = bert_tower(lambda model: model.text.transformer, _hf_head if at_first else _hf_projection)
    pooled, pool = (first_token, None) if at_first else (None, _hf_mean)
    return replace(tower, pooled=pooled, pool=pool, reads=_hf_reads, own=_hf_own)


def _hf_reads(model: Any, inputs: Inputs) -> Tensor:
    reads: Tensor = inputs["input_ids"] != model.text.config.pad_token_id
    return reads


def _hf_own(model: Any, inputs: Inputs) -> Tensor:
    embedding: Tensor = model.encode_text(inputs["input_ids"], normalize=False)
    return embedding


def _hf_projection(model: Any, pooled: Tensor) -> Tensor:
    projected: Tensor = model.text.proj(pooled)
    return projected


def _hf_head(model: Any, pooled: Tensor) -> Tensor:
    core, pooler = model.text.transformer, model.text.pooler
    if getattr(pooler, "use_pooler_output", False) and core.pooler is not None:
        pooled = core.pooler(pooled[:, None])
    return _hf_projection(model, pooled)


def _hf_mean(model: Any, hidden: Tensor, layout: Layout) -> Tensor:
    pooled: Tensor = model.text.pooler(BaseModelOutput(last_hidden_state=hidden), layout.valid.long())
    return pooled
