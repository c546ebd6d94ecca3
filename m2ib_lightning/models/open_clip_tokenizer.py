"""Tokenizers of OpenCLIP as tokenizers of transformers, which say where each token lies in the caption."""

from __future__ import annotations

import copy
from typing import Any

import torch
from tokenizers import Regex, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import CLIPTokenizer

from m2ib_lightning.errors import M2IBError

_PATTERN = r"(?i)'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""How OpenCLIP's ``SimpleTokenizer`` splits a caption, without the special tokens, which are text in a caption here."""

_PROBES = ("a", "A red circle, next to 2 blue stars!", "it's  a\tcat & dog's “photo” — no. 42")
"""Captions whose ids are compared when a model is loaded."""


class OpenClipTokenizer(CLIPTokenizer):
    """CLIP's byte pairs, padded with id 0 as OpenCLIP pads them. Captions are cleaned before they come here."""

    @property
    def pad_token_id(self) -> int:
        """The id of padding. Towers that read their padding were trained with it."""
        return 0

    @pad_token_id.setter
    def pad_token_id(self, value: int) -> None:
        raise AttributeError("OpenCLIP pads with id 0")


def fast_tokenizer(tokenizer: Any) -> Any:
    """Return a tokenizer of transformers with the same ids as a tokenizer of OpenCLIP.

    Args:
        tokenizer: a ``SimpleTokenizer``, or an ``HFTokenizer`` or ``SigLipTokenizer``, which hold one of transformers.

    Raises:
        M2IBError: if the tokenizer is of another kind, or has a mode that is not supported.
    """
    if getattr(tokenizer, "reduction_fn", None) is not None:
        raise M2IBError("this OpenCLIP tokenizer drops words at random (reduction_mask), which is not supported")
    if getattr(tokenizer, "tokenizer_mode", ""):
        raise M2IBError(f"OpenCLIP's tokenizer_mode={tokenizer.tokenizer_mode!r} is not supported")
    if hasattr(tokenizer, "bpe_ranks"):
        return _byte_pairs(tokenizer)
    if not hasattr(getattr(tokenizer, "tokenizer", None), "is_fast"):
        raise M2IBError(f"processor= must be a tokenizer of OpenCLIP (open_clip.get_tokenizer), got {tokenizer!r}")
    inner = tokenizer.tokenizer
    if getattr(tokenizer, "strip_sep_token", False):
        inner = copy.deepcopy(inner)
        specials = [(inner.cls_token, inner.cls_token_id), ("[ZERO]", 0)]
        inner.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{inner.cls_token} $A [ZERO]", special_tokens=specials
        )
    return inner


def _byte_pairs(tokenizer: Any) -> OpenClipTokenizer:
    start, end = (tokenizer.decoder[token_id] for token_id in (tokenizer.sot_token_id, tokenizer.eot_token_id))
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
    specials = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}
    fast = OpenClipTokenizer(
        vocab=dict(tokenizer.encoder), merges=merges, model_max_length=tokenizer.context_length, **specials
    )
    backend = fast.backend_tokenizer
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return fast


def cleaning(tokenizer: Any) -> Any:
    """Return the function (caption) -> caption that OpenCLIP's tokenizer applies first."""
    if hasattr(tokenizer, "clean_fn"):
        return tokenizer.clean_fn
    from open_clip.tokenizer import get_clean_fn

    return get_clean_fn("canonicalize")


def check_ids(fast: Any, tokenizer: Any, clean: Any) -> None:
    """Check on a few captions that two tokenizers give the same ids, padding included.

    Args:
        fast: tokenizer of transformers.
        tokenizer: OpenCLIP's tokenizer.
        clean: what is applied to a caption before ``fast``.

    Raises:
        M2IBError: if the ids differ.
    """
    for caption in _PROBES:
        expected = tokenizer([caption])[0]
        ids = fast(
            clean(caption), truncation=True, max_length=len(expected), padding="max_length", split_special_tokens=True
        )["input_ids"]
        if not torch.equal(torch.tensor(ids), expected):
            raise M2IBError(
                f"OpenCLIP's {type(tokenizer).__name__} gives other ids for {caption!r} than the tokenizer made from "
                f"it: {expected.tolist()[:12]} and {ids[:12]}. Please report the model's name"
            )
