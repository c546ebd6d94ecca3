"""Per-channel statistics of a layer, for ``prior=data``: the noise then has the mean and scale of the features."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from m2ib_lightning.config import MODALITIES, Modality
from m2ib_lightning.encoder.towers import Encoder
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.files import atomic_write, first_line
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.pairs.pair import PairBatch

SMALLEST_STD = 1e-5


class Prior(NamedTuple):
    """Prior of one layer: mean m and standard deviation s, each (D,) float64."""

    mean: Tensor
    std: Tensor


@dataclass(frozen=True)
class Statistics:
    """The priors of the layers that have ``prior="data"``.

    Attributes:
        priors: priors by tower and layer, under names like ``image.-1`` or ``text.7``.
    """

    priors: dict[str, Prior] = field(default_factory=dict)

    def get(self, modality: Modality, layer: int) -> Prior | None:
        """Return the prior of a layer, or None if there is none."""
        return self.priors.get(f"{modality}.{layer}")

    def with_prior(self, modality: Modality, layer: int, prior: Prior) -> Statistics:
        """Return a copy of these statistics that also holds ``prior`` for a layer."""
        return Statistics({**self.priors, f"{modality}.{layer}": prior})

    def updated(self, other: Statistics) -> Statistics:
        """Return both statistics merged. For a layer in both, the prior of ``other`` wins."""
        return Statistics({**self.priors, **other.priors})

    @property
    def sha256(self) -> str:
        """SHA-256 of the priors; ``config.yaml`` records it."""
        return hashlib.sha256(self._bytes()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the priors to a safetensors file, by an atomic write."""
        with atomic_write(path) as file:
            file.write(self._bytes())

    def _bytes(self) -> bytes:
        tensors = {}
        for name, prior in sorted(self.priors.items()):
            tensors[f"{name}.mean"], tensors[f"{name}.std"] = prior.mean.contiguous(), prior.std.contiguous()
        return save(tensors)

    @staticmethod
    def load(path: str | Path) -> Statistics:
        """Read the statistics from a file that ``save`` wrote.

        Raises:
            M2IBError: if the file is missing, torn, or does not hold statistics: for each layer a mean and a standard
                deviation, (D,) each, all of them finite, and the deviations positive.
        """
        try:
            tensors = load_file(path)
        except Exception as error:
            raise M2IBError(f"{path} could not be read as layer statistics: {first_line(error)}") from error
        names = sorted({name.rpartition(".")[0] for name in tensors})
        try:
            return Statistics({name: _checked(name, tensors) for name in names})
        except M2IBError as error:
            raise M2IBError(f"{path} does not hold layer statistics: {error}") from None

    def check(self, encoder: Encoder, origin: str) -> None:
        """Check that the statistics can be those of a model.

        Args:
            encoder: the model.
            origin: where the statistics come from, for the message.

        Raises:
            M2IBError: if a layer does not exist, or has another number of channels.
        """
        for name, prior in self.priors.items():
            modality, _, layer = name.partition(".")
            tower = next(encoder.towers[m] for m in MODALITIES if m == modality)
            if int(layer) >= len(tower.blocks):
                raise M2IBError(
                    f"{origin} is of another model: it has block {layer} of the {modality} tower, which has blocks 0 "
                    f"to {len(tower.blocks) - 1} here"
                )
            if len(prior.mean) != tower.width:
                raise M2IBError(
                    f"{origin} is of another model: {name} has {len(prior.mean)} channels in it, and the {modality} "
                    f"tower has {tower.width}"
                )


def _checked(name: str, tensors: dict[str, Tensor]) -> Prior:
    """Return the prior of one layer from the tensors of a file."""
    modality, _, layer = name.partition(".")
    if modality not in MODALITIES or not re.fullmatch(r"-1|\d{1,6}", layer):
        raise M2IBError(f"expected tensors named like image.7.mean and text.-1.std, got {name!r}")
    mean, std = (tensors.get(f"{name}.{part}") for part in ("mean", "std"))
    if mean is None or std is None:
        raise M2IBError(f"{name} must have a mean and a std")
    if mean.ndim != 1 or mean.shape != std.shape or not len(mean):
        raise M2IBError(f"{name}: mean and std must be vectors of one size, got {_shape(mean)} and {_shape(std)}")
    if not (mean.is_floating_point() and std.is_floating_point()):
        raise M2IBError(f"{name}: mean and std must be floating-point numbers, got {mean.dtype} and {std.dtype}")
    if not (mean.isfinite().all() and std.isfinite().all()):
        raise M2IBError(f"{name}: mean and std must be finite, got NaN or infinity")
    if not (std > 0).all():
        raise M2IBError(f"{name}: std must be positive, got {float(std.min())}")
    return Prior(mean, std)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


class _Moments:
    """Sums over tokens, in float64: the batch size changes only the last bits of the result."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self.total = torch.zeros(width, dtype=torch.float64)
        self.squares = torch.zeros(width, dtype=torch.float64)

    def add(self, tokens: Tensor) -> None:
        """Add tokens (N, D) to the sums."""
        tokens = tokens.double().cpu()
        self.count += len(tokens)
        self.total += tokens.sum(0)
        self.squares += tokens.square().sum(0)

    def prior(self) -> Prior:
        """Return the mean and the population standard deviation, which is at least ``SMALLEST_STD``."""
        mean = self.total / self.count
        variance = (self.squares / self.count - mean.square()).clamp(min=0)
        return Prior(mean, variance.sqrt().clamp(min=SMALLEST_STD))


def _finite_tokens(z: Tensor, valid: Tensor) -> Tensor:
    """Return the tokens (N, D) that the tower reads, of the pairs without NaN or infinity."""
    finite = (z.isfinite().all(-1) | ~valid).all(-1)
    return z[finite][valid[finite]]


def needed(settings: BottleneckSettings, statistics: Statistics) -> dict[Modality, int]:
    """Return, by tower, the layers with ``prior="data"`` that the statistics lack. The settings must be resolved."""
    missing: dict[Modality, int] = {}
    for modality in MODALITIES:
        tower = settings.tower(modality)
        if tower.prior == "data" and tower.layer is not None and statistics.get(modality, tower.layer) is None:
            missing[modality] = tower.layer
    return missing


def calibrate(
    encoder: Encoder, batches: Iterable[PairBatch], layers: dict[Modality, int], statistics: Statistics, limit: int
) -> Statistics:
    """Compute the priors of some layers from the first ``limit`` readable pairs.

    The mean and standard deviation are over all tokens that the tower reads.

    Args:
        encoder: the model, frozen and on its device.
        batches: pairs in source order.
        layers: layer to compute a prior for, by tower.
        statistics: statistics to add the priors to.
        limit: largest number of pairs.

    Returns:
        The statistics with the new priors.

    Raises:
        M2IBError: if no pair could be read.
    """
    moments = {modality: _Moments(encoder.towers[modality].width) for modality in layers}
    pairs_seen = 0
    device = next(encoder.model.parameters()).device
    for batch in batches:
        batch = batch.to(device)
        pairs_used = min(len(batch), limit - pairs_seen)
        for modality, layer in layers.items():
            if pairs_used:
                hidden = encoder.towers[modality].prefix(batch.inputs[modality], layer)
                indices = batch.first(pairs_used)
                moments[modality].add(_finite_tokens(hidden.z[indices], hidden.valid[indices]))
        pairs_seen += pairs_used
        if pairs_seen == limit:
            break
    if pairs_seen == 0 or any(moment.count == 0 for moment in moments.values()):
        raise M2IBError(
            "prior=data needs statistics of the layer, but no pair gives any: none could be read, or all give NaN"
        )
    for modality, layer in layers.items():
        statistics = statistics.with_prior(modality, layer, moments[modality].prior())
    return statistics
