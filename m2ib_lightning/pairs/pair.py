"""A pair at each stage: raw from its source, prepared by a worker, and in a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from m2ib_lightning.config import MODALITIES, Modality
from m2ib_lightning.errors import escaped
from m2ib_lightning.pairs.framing import Box
from m2ib_lightning.pairs.images import ImageLike
from m2ib_lightning.pairs.truth import OtherCaption, RawTruth, Truth
from m2ib_lightning.pairs.units.unit import Unit
from m2ib_lightning.pairs.units.unit_inputs import UnitInputs


@dataclass(frozen=True)
class RawPair:
    """A pair as its source provides it.

    Attributes:
        key: ``<file or shard>:<row>``, unique in the run.
        image: image that ``read_image`` accepts; None for a null cell.
        uri: path or URI of the image, as written to the results.
        caption: text of the caption; None for a null cell.
        id: identifier from the user; None to use the key.
        error: reason why the source could not read the pair, or None.
        truth: ground truth of the pair, or None if the source has none.
        fingerprint: digest of the caption, the image and the truth (``pairs.fingerprint``); None if it was not taken.
        sentence: the sentence that the caption is a phrase of; None for a caption that stands alone.
        spans: (start, end) of the user's units in the caption; None for those that the rule finds.
    """

    key: str
    image: ImageLike | None
    uri: str
    caption: str | None
    id: str | None = None
    error: str | None = None
    truth: RawTruth | None = None
    fingerprint: str | None = None
    sentence: str | None = None
    spans: Sequence[Any] | None = None


class PairSource(Protocol):
    """A source of pairs by position, in a fixed order. A pair that can't be read is a ``RawPair`` with ``error``."""

    def __len__(self) -> int:
        """Return the number of pairs."""

    def __getitem__(self, index: int, /) -> RawPair:
        """Return the pair at a position."""

    def key(self, index: int, /) -> str:
        """Return the key of the pair at a position, without reading the pair: a resumed run needs all keys."""


@runtime_checkable
class PairStream(Protocol):
    """A source of pairs in shards. Each shard has a fixed order and can only be read forwards.

    Attributes:
        names: names of the shards, unique and the same in every run. A pair's key is ``<name>:<row>``, or
            ``<name>:<row>.<item>``.
    """

    names: Sequence[str]

    def rows(self, shard: int, /) -> Iterator[list[RawPair]]:
        """Yield the pairs of each row of a shard; a pair that can't be read is a ``RawPair`` with ``error``."""


@dataclass(frozen=True)
class Pair:
    """A pair without its tensors.

    Attributes:
        key: ``<file or shard>:<row>``, unique in the run.
        id: identifier from the user, else the key.
        image: path or URI of the image.
        caption: text of the caption, or None.
        tokens: decoded tokens of the caption, without special tokens.
        token_offsets: (start, end) of each token, in characters of the caption.
        token_positions: index of each token in the sequence that the tower reads.
        image_size: (width, height) after EXIF rotation, in pixels.
        crop: box of the picture that the patches cover; with ``fit="pad"`` it is larger than the picture.
        position: index in the source, which decides on every rank whether the pair is drawn.
        truncated: whether the caption was longer than the model reads.
        unknown: number of tokens outside the model's vocabulary.
        unread: indices in ``tokens`` of those that the text tower never reads, which carry no information.
        animated: whether the image has more frames than the first, which was read.
        picture: copy for display, at most 512 px wide and high; None for a pair that is not drawn.
        error: reason why the pair can't be explained, or None.
        truth: ground truth of the pair, or None if the source has none.
        fingerprint: digest of the source's caption, image and truth, by which a resumed run sees a change.
        sentence: the sentence that the caption is a phrase of, or None.
        units: units of the caption that get a map of their own; empty for a pair that is not grounded.
    """

    key: str
    id: str
    image: str
    caption: str | None
    tokens: list[str] = field(default_factory=list)
    token_offsets: list[tuple[int, int]] = field(default_factory=list)
    token_positions: list[int] = field(default_factory=list)
    image_size: tuple[int, int] = (0, 0)
    crop: Box = (0, 0, 0, 0)
    position: int = 0
    truncated: bool = False
    unknown: int = 0
    unread: list[int] = field(default_factory=list)
    animated: bool = False
    picture: Image.Image | None = None
    error: str | None = None
    truth: Truth | None = None
    fingerprint: str | None = None
    sentence: str | None = None
    units: list[Unit] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.error is not None:  # it may quote data
            object.__setattr__(self, "error", escaped(self.error))

    @property
    def share_cut_away(self) -> float | None:
        """Share of the pixels that the truth marks which the model does not see; None if it marks none."""
        mask = None if self.truth is None else self.truth.mask
        if mask is None or not (marked := int(mask.sum())):
            return None
        left, top, right, bottom = (max(edge, 0) for edge in self.crop)
        return 1 - int(mask[top:bottom, left:right].sum()) / marked

    def other_captions(self, count: int) -> list[OtherCaption]:
        """Return the first ``count`` other captions that the source provides for the picture."""
        return [] if self.truth is None else self.truth.others[:count]


class PairResult(Protocol):
    """A result that names its pair."""

    @property
    def pair(self) -> Pair:
        """The pair that the result is about."""


ResultT = TypeVar("ResultT", bound=PairResult)


class PairBatch:
    """A batch of B prepared pairs, and the pairs that failed.

    The class is not a dataclass: Lightning traverses dataclasses, and would copy every picture.

    Args:
        pairs: B prepared pairs, in the order of the tensors (``Preparer`` sorts them by the length of the caption).
        failed: pairs with an error, not in the tensors.
        image_inputs: ``pixel_values`` (B, 3, H, W). Pictures of several sizes are flattened to (B, 3, longest), and
            ``picture_sizes`` (B, 2) holds the height and width of each.
        text_inputs: ``input_ids`` and ``attention_mask`` (B, T), padded on the right.
        order: keys of all pairs, failed ones included, in source order; None for ``pairs``, then ``failed``.
        targets: embeddings (B, embedding width) that the images are compared with; None for those of the captions.
        units: units of the captions, for a batch that is grounded; else None.
    """

    def __init__(
        self,
        pairs: list[Pair],
        failed: list[Pair],
        image_inputs: dict[str, Tensor],
        text_inputs: dict[str, Tensor],
        order: list[str] | None = None,
        targets: Tensor | None = None,
        units: UnitInputs | None = None,
    ) -> None:
        self.pairs = pairs
        self.failed = failed
        self.order = order if order is not None else [pair.key for pair in (*pairs, *failed)]
        self.targets = targets
        self.units = units
        self.inputs: dict[Modality, dict[str, Tensor]] = {"image": image_inputs, "text": text_inputs}

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def tower_inputs(self) -> dict[Modality, dict[str, Tensor]]:
        """Inputs of the towers that are explained; without text if the batch has targets."""
        return self.inputs if self.targets is None else {"image": self.inputs["image"]}

    def first(self, count: int) -> list[int]:
        """Return the batch indices of the first ``count`` pairs in source order."""
        indices = {pair.key: index for index, pair in enumerate(self.pairs)}
        return [indices[key] for key in self.order if key in indices][:count]

    def complete(self, results: Iterable[ResultT], failure: Callable[..., ResultT]) -> list[ResultT]:
        """Return the results of all pairs in source order, failed pairs included.

        Args:
            results: one result for each of ``pairs``, in any order.
            failure: function that makes the result of a failed pair, called as ``failure(pair, error=...)``.
        """
        failures = (failure(pair, error=pair.error) for pair in self.failed)
        by_key = {result.pair.key: result for result in (*results, *failures)}
        return [by_key[key] for key in self.order]

    def alone(self, index: int) -> PairBatch:
        """Return a batch of one pair, by its index in this batch; its tensors are views of this batch's."""
        one = slice(index, index + 1)
        return self._with(self.pairs[one], [], None, lambda tensor: tensor[one], self._some_units([index]))

    def some(self, indices: Sequence[int]) -> PairBatch:
        """Return a batch of some pairs, by their indices in this batch; the padding stays as it is."""
        rows = torch.tensor(indices, dtype=torch.long)
        pairs = [self.pairs[index] for index in indices]
        return self._with(pairs, [], None, lambda tensor: tensor[rows.to(tensor.device)], self._some_units(indices))

    def for_targets(self, rows: Sequence[int], targets: Tensor) -> PairBatch:
        """Return a batch of pairs of this batch, which may repeat, to be explained against embeddings (N, E)."""
        batch = self.some(rows)
        batch.targets, batch.units = targets, None
        return batch

    def same_size_parts(self) -> list[PairBatch]:
        """Return batches in each of which all pictures have one size; failed pairs are left out."""
        sizes = self.inputs["image"].get("picture_sizes")
        if sizes is None:
            return [self._with(self.pairs, [], None, lambda tensor: tensor, self.units)]
        parts = []
        for height, width in sizes.unique(dim=0).tolist():
            rows = (sizes == sizes.new_tensor([height, width])).all(-1).nonzero()[:, 0].tolist()
            part = self.some(rows)
            pixels = part.inputs["image"]["pixel_values"][..., : height * width].unflatten(-1, (height, width))
            part.inputs["image"] = {"pixel_values": pixels}
            parts.append(part)
        return parts

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PairBatch:
        """Return the batch with its tensors on a device (Lightning calls this)."""
        return self._everywhere(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PairBatch:
        """Return the batch with its tensors in pinned memory (the data loader calls this)."""
        return self._everywhere(torch.Tensor.pin_memory)

    def _everywhere(self, function: Callable[[Tensor], Tensor]) -> PairBatch:
        """The batch with a function applied to each tensor."""
        units = None if self.units is None else self.units.apply(function)
        return self._with(self.pairs, self.failed, self.order, function, units)

    def _some_units(self, indices: Sequence[int]) -> UnitInputs | None:
        return None if self.units is None else self.units.some(indices)

    def _with(
        self,
        pairs: list[Pair],
        failed: list[Pair],
        order: list[str] | None,
        function: Callable[[Tensor], Tensor],
        units: UnitInputs | None,
    ) -> PairBatch:
        """A batch of other pairs and units, with a function applied to the inputs and the targets."""
        image, text = ({name: function(tensor) for name, tensor in self.inputs[m].items()} for m in MODALITIES)
        targets = None if self.targets is None else function(self.targets)
        return PairBatch(pairs, failed, image, text, order, targets, units)


@dataclass(frozen=True)
class PreparedPair:
    """One pair and its tensors.

    Attributes:
        pair: the pair.
        pixel_values: (3, H, W).
        input_ids: (T,) tokens of the caption.
        unit_ids: tokens of each unit's text, by its index in ``pair.units``; a unit that the model does not read has
            none.
    """

    pair: Pair
    pixel_values: Tensor
    input_ids: Sequence[int]
    unit_ids: dict[int, list[int]] = field(default_factory=dict)
