"""A request to ``explain``: images against captions, or against a target embedding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor

from m2ib_lightning.encoder.towers import Encoder
from m2ib_lightning.errors import M2IBError, PairError
from m2ib_lightning.m2ib.unit_targets import SAME_EMBEDDING
from m2ib_lightning.pairs.pair import PairBatch, PreparedPair, RawPair
from m2ib_lightning.pairs.prepare import Preparer
from m2ib_lightning.pairs.units.unit import has_words


@dataclass(frozen=True)
class Request:
    """The pairs to explain, and what to explain them against.

    Attributes:
        pairs: one pair per result.
        many: whether ``explain`` returns a list.
        target: the user's target embedding or embeddings, or None.
        captions: captions of a prompt ensemble; empty if there is none.
        against: text that each pair's caption is set against, or None.
    """

    pairs: list[RawPair]
    many: bool
    target: Any = None
    captions: tuple[str, ...] = ()
    against: str | None = None

    def targets(self, encoder: Encoder, preparer: Preparer, like: Tensor) -> Tensor | None:
        """Return one target per pair (N, E), in the dtype and on the device of ``like``; None for pairs with captions.

        Raises:
            M2IBError: if the target does not fit the model, or a caption of an ensemble has no words.
        """
        if self.against is not None:
            return _contrasts(encoder, preparer, self.pairs, self.against, like)
        if self.target is None and not self.captions:
            return None
        size = encoder.towers["image"].embedding_size
        target = (
            _to_tensor(self.target)
            if self.target is not None
            else _ensemble_embedding(encoder, preparer, self.captions, like)
        )
        if target.shape not in ((size,), (1, size), (len(self.pairs), size)):
            raise M2IBError(
                f"target must be ({size},), the size of this model's embeddings, or one for each image "
                f"({len(self.pairs)}, {size}), got {tuple(target.shape)}"
            )
        if not target.isfinite().all() or (target == 0).all(-1).any():
            raise M2IBError("target must be finite and not zero: only its direction counts")
        target = target.double()
        scaled = target / target.abs().amax(-1, keepdim=True)  # the norm of a tiny or huge target is out of range
        return F.normalize(scaled, dim=-1).to(like).expand(len(self.pairs), size)

    def batch(self, preparer: Preparer, indices: Iterable[int], targets: Tensor | None) -> PairBatch:
        """Prepare the pairs at ``indices`` as a batch. With ``targets``, the batch has images only."""
        indices = list(indices)
        image_only = targets is not None
        items = [preparer.prepare(self.pairs[k], keep_picture=True, image_only=image_only) for k in indices]
        batch = preparer.collate(items)
        if targets is not None:
            readable = [k for k, item in zip(indices, items, strict=True) if isinstance(item, PreparedPair)]
            batch.targets = targets[readable]
        return batch


def parse_request(
    image: Any,
    text: Any,
    *,
    target: Any = None,
    ensemble: bool = False,
    against: str | None = None,
    spans: Sequence[Any] | None = None,
) -> Request:
    """Turn the arguments of ``explain`` or ``ground`` into a request.

    Args:
        image: see ``explain``.
        text: see ``explain``.
        target: see ``explain``.
        ensemble: see ``explain``.
        against: see ``explain``.
        spans: the user's units of the caption, or, for a list of pairs, a list of them; None for those of a rule.

    Raises:
        M2IBError: if the arguments do not go together. The message says which would.
    """
    if against is not None and (target is not None or ensemble):
        raise M2IBError(
            "against= sets captions against another text: it goes with captions alone, not with target= or ensemble="
        )
    if against is not None and (not isinstance(against, str) or not has_words(against)):
        raise M2IBError(f"against must be a text with words, got {against!r}")
    many_images = isinstance(image, list | tuple)
    images = list(image) if many_images else [image]
    if target is not None:
        if text is not None or ensemble:
            raise M2IBError("give captions or a target embedding, not both")
        return Request(_pairs(images, [None] * len(images)), many_images, target=target)
    captions = _checked_captions(text)
    if ensemble:
        if isinstance(text, str) or not captions:
            raise M2IBError("ensemble=True needs a list of captions: the target is the mean of their embeddings")
        joined = "; ".join(captions)
        return Request(_pairs(images, [joined] * len(images)), many_images, captions=tuple(captions))
    if many_images and isinstance(text, str):
        captions = captions * len(images)
    elif not many_images:
        images = images * len(captions)
    elif len(images) != len(captions):
        raise M2IBError(f"there must be one caption per image, got {len(images)} images and {len(captions)} captions")
    many = many_images or not isinstance(text, str)
    pairs = _pairs(images, captions)
    if spans is not None:
        each = list(spans) if many else [spans]
        if len(each) != len(pairs):
            raise M2IBError(f"units must hold one list of spans for each of the {len(pairs)} pairs, got {len(each)}")
        pairs = [replace(pair, spans=list(given)) for pair, given in zip(pairs, each, strict=True)]
    return Request(pairs, many, against=against)


def _checked_captions(text: Any) -> list[str]:
    if text is None:
        raise M2IBError("give a caption, a list of captions, or target= (an embedding to explain the image against)")
    if not isinstance(text, str | list | tuple):
        raise M2IBError(f"a caption must be a string, got {type(text).__name__}")
    captions = [text] if isinstance(text, str) else list(text)
    for index, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise M2IBError(f"caption {index} must be a string, got {type(caption).__name__}")
    return captions


def _pairs(images: list[Any], captions: Sequence[str | None]) -> list[RawPair]:
    return [_pair(k, image, caption) for k, (image, caption) in enumerate(zip(images, captions, strict=True))]


def _pair(index: int, image: Any, caption: str | None) -> RawPair:
    uri = str(image) if isinstance(image, str | Path) else f"image {index}"
    return RawPair(key=f"explain:{index}", image=image, uri=uri, caption=caption)


def _to_tensor(target: Any) -> Tensor:
    try:
        if torch.is_tensor(target) and not target.is_complex():
            return target.detach().cpu()
        return torch.from_numpy(np.asarray(target, dtype=np.float64))
    except (TypeError, ValueError, RuntimeError) as error:
        raise M2IBError(f"target must be an embedding (a tensor or an array of numbers): {error}") from None


def _ensemble_embedding(encoder: Encoder, preparer: Preparer, captions: tuple[str, ...], like: Tensor) -> Tensor:
    """Return the mean (E,) of the captions' normalised embeddings."""
    embeddings = []
    for caption in captions:
        try:
            embeddings.append(_embedding(encoder, preparer, caption, like))
        except PairError as error:
            raise M2IBError(f"the caption {caption!r} of the ensemble: {error}") from None
    return torch.stack(embeddings).mean(0)


def _contrasts(encoder: Encoder, preparer: Preparer, pairs: list[RawPair], against: str, like: Tensor) -> Tensor:
    """Return the normalised e(caption) - e(against) of each pair (N, E)."""
    other, targets = _embedding(encoder, preparer, against, like), []
    for pair in pairs:
        try:
            difference = _embedding(encoder, preparer, pair.caption, like) - other
        except PairError as error:
            raise M2IBError(f"the caption {pair.caption!r}: {error}") from None
        if difference.norm() <= SAME_EMBEDDING:
            raise M2IBError(f"the model gives {pair.caption!r} and against={against!r} the same embedding: no contrast")
        targets.append(F.normalize(difference, dim=-1))
    return torch.stack(targets)


@torch.no_grad()
def _embedding(encoder: Encoder, preparer: Preparer, caption: str | None, like: Tensor) -> Tensor:
    """Return the normalised embedding (E,) of a caption, which runs alone so that it does not depend on others.

    Raises:
        PairError: if the caption has no words.
    """
    tower = encoder.towers["text"]
    inputs = {
        name: tensor.to(like.device) for name, tensor in preparer.pad([preparer.read_caption(caption)[0]]).items()
    }
    hidden = tower.prefix(inputs, -1)
    return F.normalize(tower.suffix(hidden.z, -1, hidden.layout).to(like.dtype), dim=-1)[0]
