"""A pair on its way: from a source, through preparation in a worker, to a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from m2ib_lightning.config import MODALITIES, Modality
from m2ib_lightning.pairs.framing import Box
from m2ib_lightning.pairs.images import ImageLike
from m2ib_lightning.pairs.truth import OtherCaption, RawTruth, Truth


@dataclass(frozen=True)
class RawPair:
    """A pair as its source has it.

    Attributes:
        key: ``<file or shard>:<row>``, unique in the run.
        image: anything ``open_image`` takes; None for a null cell.
        uri: how rows name the image.
        caption: None for a null cell.
        id: the user's; None to use the key.
        error: why the source could not read it, or None.
        truth: what its maps can be judged by, where the source knows.
    """

    key: str
    image: ImageLike | None
    uri: str
    caption: str | None
    id: str | None = None
    error: str | None = None
    truth: RawTruth | None = None


class PairSource(Protocol):
    """Pairs by position, in a fixed order. An item that can't be read is a ``RawPair`` with ``error``."""

    def __len__(self) -> int:
        """How many pairs there are."""

    def __getitem__(self, index: int, /) -> RawPair:
        """The pair at that position."""

    def key(self, index: int, /) -> str:
        """Its key, without reading the pair: a run that is resumed asks for all of them."""


@runtime_checkable
class PairStream(Protocol):
    """Pairs that can only be read forwards, shard by shard, each in a fixed order.

    Attributes:
        names: of the shards, unique, the same in every run. A key is ``<name>:<row>``, or ``<name>:<row>.<item>``.
    """

    names: Sequence[str]

    def rows(self, shard: int, /) -> Iterator[list[RawPair]]:
        """The pairs of each row of a shard; what can't be read is a ``RawPair`` with ``error``."""


@dataclass(frozen=True)
class Pair:
    """What is known of a pair beside its tensors.

    Attributes:
        key: unique in the run.
        id: the user's, else the key.
        image: path or URI.
        caption: as given, or None.
        tokens: the caption's tokens, decoded, specials excluded.
        token_offsets: (start, end) of each token, in characters of the caption.
        token_positions: where each token stands in the sequence that the tower reads.
        image_size: (width, height) after EXIF rotation, in pixels.
        crop: what the model saw of it: the patches lie over this box, which with ``fit="pad"`` is larger than the
            picture.
        position: its place in the source; the first so many are drawn, on whatever rank they are.
        truncated: whether the caption was longer than the model reads.
        unknown: how many tokens the model's vocabulary does not know.
        animated: whether the image has more frames than the first, which was read.
        picture: a copy to draw on, at most 512 px wide and high; None when it is not going to be drawn.
        error: why it can't be explained, or None.
        truth: what its maps can be judged by, where the source knows.
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
    animated: bool = False
    picture: Image.Image | None = None
    error: str | None = None
    truth: Truth | None = None

    def other_captions(self, count: int) -> list[OtherCaption]:
        """The first ``count`` other captions that its source gives for the picture."""
        return [] if self.truth is None else self.truth.others[:count]


class PairResult(Protocol):
    """A result that names its pair."""

    @property
    def pair(self) -> Pair:
        """The pair that the result is about."""


ResultT = TypeVar("ResultT", bound=PairResult)


class PairBatch:
    """B pairs that can be explained, and those that can't.

    Not a dataclass on purpose: Lightning would look into one and copy every picture.

    Args:
        pairs: B of them, in the order of the tensors (by the length of the caption, if ``Preparer`` made it).
        failed: pairs with an error, not in the tensors.
        image_inputs: ``pixel_values`` (B, 3, H, W).
        text_inputs: ``input_ids`` and ``attention_mask`` (B, T), padded on the right.
        order: the keys of all of them in source order; None for ``pairs``, then ``failed``.
        targets: (B, E), what the images are explained against, in place of their captions; None for the captions.
    """

    def __init__(
        self,
        pairs: list[Pair],
        failed: list[Pair],
        image_inputs: dict[str, Tensor],
        text_inputs: dict[str, Tensor],
        order: list[str] | None = None,
        targets: Tensor | None = None,
    ) -> None:
        self.pairs = pairs
        self.failed = failed
        self.order = order if order is not None else [pair.key for pair in (*pairs, *failed)]
        self.targets = targets
        self.inputs: dict[Modality, dict[str, Tensor]] = {"image": image_inputs, "text": text_inputs}

    def __len__(self) -> int:
        return len(self.pairs)

    def first(self, count: int) -> list[int]:
        """Where the first ``count`` pairs, in source order, stand in the tensors."""
        places = {pair.key: place for place, pair in enumerate(self.pairs)}
        return [places[key] for key in self.order if key in places][:count]

    def complete(self, results: Iterable[ResultT], failure: Callable[..., ResultT]) -> list[ResultT]:
        """Return the results of all pairs in source order, failed pairs included.

        Args:
            results: one result for each of ``pairs``, in any order.
            failure: maker of a failed pair's result, called as ``failure(pair, error=...)``.
        """
        failures = (failure(pair, error=pair.error) for pair in self.failed)
        by_key = {result.pair.key: result for result in (*results, *failures)}
        return [by_key[key] for key in self.order]

    def alone(self, place: int) -> PairBatch:
        """A batch of the one pair that stands there in the tensors, which are views of these."""
        one = slice(place, place + 1)
        image, text = ({name: tensor[one] for name, tensor in self.inputs[m].items()} for m in MODALITIES)
        targets = None if self.targets is None else self.targets[one]
        return PairBatch(self.pairs[one], [], image, text, targets=targets)

    def some(self, places: Sequence[int]) -> PairBatch:
        """A batch of the pairs that stand there in the tensors, as they are padded."""
        chosen = torch.tensor(places, dtype=torch.long)
        image, text = (
            {name: tensor[chosen.to(tensor.device)] for name, tensor in self.inputs[m].items()} for m in MODALITIES
        )
        targets = None if self.targets is None else self.targets[chosen.to(self.targets.device)]
        return PairBatch([self.pairs[place] for place in places], [], image, text, targets=targets)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PairBatch:
        """The batch with its tensors on a device (Lightning calls this)."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PairBatch:
        """The batch with its tensors in pinned memory (the data loader calls this)."""
        return self._map(torch.Tensor.pin_memory)

    def _map(self, function: Callable[[Tensor], Tensor]) -> PairBatch:
        image, text = ({name: function(t) for name, t in self.inputs[m].items()} for m in MODALITIES)
        targets = None if self.targets is None else function(self.targets)
        return PairBatch(self.pairs, self.failed, image, text, self.order, targets)


@dataclass(frozen=True)
class PreparedPair:
    """One pair and its tensors: ``pixel_values`` (3, H, W), ``input_ids`` (T,)."""

    pair: Pair
    pixel_values: Tensor
    input_ids: Sequence[int]
