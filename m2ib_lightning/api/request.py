"""What ``explain`` is asked: which images against which captions, or against which embedding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor

from m2ib_lightning.encoder.towers import Encoder
from m2ib_lightning.errors import M2IBError, PairError
from m2ib_lightning.pairs.pair import PairBatch, PreparedPair, RawPair
from m2ib_lightning.pairs.prepare import Preparer


@dataclass(frozen=True)
class Request:
    """The pairs to explain.

    Attributes:
        pairs: one for each result.
        many: whether the answer is a list.
        target: what the images are explained against in place of captions, as the user gave it, or None.
        captions: of a prompt ensemble; else none.
    """

    pairs: list[RawPair]
    many: bool
    target: Any = None
    captions: tuple[str, ...] = ()

    def targets(self, encoder: Encoder, preparer: Preparer, like: Tensor) -> Tensor | None:
        """(N, E), a target for each pair, in the type and on the device of ``like``; None where captions are.

        Raises:
            M2IBError: if the target does not fit the model, or a caption of an ensemble holds no word.
        """
        if self.target is None and not self.captions:
            return None
        size = encoder.towers["image"].embedding_size
        given = _tensor(self.target) if self.target is not None else _ensemble(encoder, preparer, self.captions, like)
        if given.shape not in ((size,), (1, size), (len(self.pairs), size)):
            raise M2IBError(
                f"target must be ({size},), the size of this model's embeddings, or one for each image "
                f"({len(self.pairs)}, {size}), got {tuple(given.shape)}"
            )
        if not given.isfinite().all() or (given == 0).all(-1).any():
            raise M2IBError("target must be finite and not zero: its direction is what counts")
        given = given.double()
        given = F.normalize(
            given / given.abs().amax(-1, keepdim=True), dim=-1
        )  # a tiny or a huge one keeps its direction
        return given.to(like).expand(len(self.pairs), size)

    def batch(self, preparer: Preparer, indices: Iterable[int], targets: Tensor | None) -> PairBatch:
        """Some of the pairs, prepared."""
        indices = list(indices)
        alone = targets is not None
        items = [preparer.prepare(self.pairs[k], keep_picture=True, image_only=alone) for k in indices]
        batch = preparer.collate(items)
        if targets is not None:
            readable = [k for k, item in zip(indices, items, strict=True) if isinstance(item, PreparedPair)]
            batch.targets = targets[readable]
        return batch


def ask(image: Any, text: Any, *, target: Any = None, ensemble: bool = False) -> Request:
    """What is meant by the arguments of ``explain``.

    Raises:
        M2IBError: if they do not go together; says what would.
    """
    images = list(image) if isinstance(image, list | tuple) else [image]
    listed = isinstance(image, list | tuple)
    if target is not None:
        if text is not None or ensemble:
            raise M2IBError("give captions or a target embedding, not both")
        return Request([_pair(k, one, None) for k, one in enumerate(images)], listed, target=target)
    if text is None:
        raise M2IBError("give a caption, a list of captions, or target= (an embedding to explain the image against)")
    if not isinstance(text, str | list | tuple):
        raise M2IBError(f"a caption must be a string, got {type(text).__name__}")
    captions = [text] if isinstance(text, str) else list(text)
    for index, caption in enumerate(captions):
        if not isinstance(caption, str):
            raise M2IBError(f"caption {index} must be a string, got {type(caption).__name__}")
    if ensemble:
        if isinstance(text, str) or not captions:
            raise M2IBError("ensemble=True needs a list of captions: the target is the mean of their embeddings")
        shown = "; ".join(captions)
        return Request([_pair(k, one, shown) for k, one in enumerate(images)], listed, captions=tuple(captions))
    if listed and not isinstance(text, str):
        if len(images) != len(captions):
            raise M2IBError(
                f"there must be one caption per image, got {len(images)} images and {len(captions)} captions"
            )
    elif listed:
        captions = captions * len(images)
    else:
        images = images * len(captions)
    pairs = [_pair(k, one, caption) for k, (one, caption) in enumerate(zip(images, captions, strict=True))]
    return Request(pairs, many=listed or not isinstance(text, str))


def _pair(index: int, image: Any, caption: str | None) -> RawPair:
    uri = str(image) if isinstance(image, str | Path) else f"image {index}"
    return RawPair(key=f"explain:{index}", image=image, uri=uri, caption=caption)


def _tensor(target: Any) -> Tensor:
    try:
        if torch.is_tensor(target) and not target.is_complex():
            return target.detach().cpu()
        return torch.from_numpy(np.asarray(target, dtype=np.float64))
    except (TypeError, ValueError, RuntimeError) as error:
        raise M2IBError(f"target must be an embedding (a tensor or an array of numbers): {error}") from None


@torch.no_grad()
def _ensemble(encoder: Encoder, preparer: Preparer, captions: tuple[str, ...], like: Tensor) -> Tensor:
    """(E,): the mean of the captions' normalised embeddings. One by one, so that no caption depends on the others."""
    tower = encoder.towers["text"]
    embeddings = []
    for caption in captions:
        try:
            ids, _ = preparer.read_caption(caption)
        except PairError as error:
            raise M2IBError(f"the caption {caption!r} of the ensemble: {error}") from None
        inputs = {name: tensor.to(like.device) for name, tensor in preparer.pad([ids]).items()}
        hidden = tower.prefix(inputs, -1)
        embeddings.append(F.normalize(tower.suffix(hidden.z, -1, hidden.pooled).to(like.dtype), dim=-1))
    return torch.cat(embeddings).mean(0)
