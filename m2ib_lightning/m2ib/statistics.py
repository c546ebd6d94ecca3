"""Per-channel statistics of a layer, for ``prior=data``: the noise then looks like the layer's own features."""

from __future__ import annotations

import hashlib
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
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.pairs.pair import PairBatch

SMALLEST_STD = 1e-5


class Prior(NamedTuple):
    """The prior of one tower: mean m and standard deviation s, (D,) float64."""

    mean: Tensor
    std: Tensor


@dataclass(frozen=True)
class Statistics:
    """Priors by tower and layer, under the names ``image.-1`` or ``text.7``."""

    priors: dict[str, Prior] = field(default_factory=dict)

    def get(self, modality: Modality, layer: int) -> Prior | None:
        """The prior of that layer, if it is known."""
        return self.priors.get(f"{modality}.{layer}")

    def with_prior(self, modality: Modality, layer: int, prior: Prior) -> Statistics:
        """These statistics and one more."""
        return Statistics({**self.priors, f"{modality}.{layer}": prior})

    def updated(self, other: Statistics) -> Statistics:
        """These statistics, with the other's where both have a layer."""
        return Statistics({**self.priors, **other.priors})

    @property
    def sha256(self) -> str:
        """What ``config.yaml`` records: two runs with this hash have the same priors."""
        return hashlib.sha256(self._bytes()).hexdigest()

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        path.write_bytes(self._bytes())

    def _bytes(self) -> bytes:
        tensors = {}
        for name, prior in sorted(self.priors.items()):
            tensors[f"{name}.mean"], tensors[f"{name}.std"] = prior.mean.contiguous(), prior.std.contiguous()
        return save(tensors)

    @staticmethod
    def load(path: str | Path) -> Statistics:
        """Read a file that ``save`` wrote.

        Raises:
            M2IBError: if it is missing or not such a file.
        """
        try:
            tensors = load_file(path)
            names = {name.rsplit(".", 1)[0] for name in tensors}
            return Statistics({name: Prior(tensors[f"{name}.mean"], tensors[f"{name}.std"]) for name in names})
        except Exception as error:
            raise M2IBError(f"{path} could not be read as layer statistics: {error}") from error


class _Moments:
    """Sums over tokens, in float64: the same for all batch sizes up to the last bits."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self.total = torch.zeros(width, dtype=torch.float64)
        self.squares = torch.zeros(width, dtype=torch.float64)

    def add(self, tokens: Tensor) -> None:
        """Add tokens (N, D)."""
        tokens = tokens.double().cpu()
        self.count += len(tokens)
        self.total += tokens.sum(0)
        self.squares += tokens.square().sum(0)

    def prior(self) -> Prior:
        """Mean and population standard deviation, the latter at least 1e-5."""
        mean = self.total / self.count
        variance = (self.squares / self.count - mean.square()).clamp(min=0)
        return Prior(mean, variance.sqrt().clamp(min=SMALLEST_STD))


def _finite(z: Tensor, valid: Tensor) -> Tensor:
    """The tokens (N, D) that the tower reads, without the pairs that give NaN or infinity: those fail alone."""
    good = (z.isfinite().all(-1) | ~valid).all(-1)
    return z[good][valid[good]]


def needed(settings: BottleneckSettings, known: Statistics) -> dict[Modality, int]:
    """The towers whose prior is asked for and not known, with their (resolved) layers."""
    missing: dict[Modality, int] = {}
    for modality in MODALITIES:
        tower = settings.tower(modality)
        if tower.prior == "data" and tower.layer is not None and known.get(modality, tower.layer) is None:
            missing[modality] = tower.layer
    return missing


def calibrate(
    encoder: Encoder, batches: Iterable[PairBatch], layers: dict[Modality, int], known: Statistics, limit: int
) -> Statistics:
    """Measure the priors over all tokens that the towers read, from the first ``limit`` pairs that can be read.

    Args:
        encoder: the model, frozen and on its device.
        batches: pairs in source order.
        layers: which layer of which tower.
        known: statistics to add to.
        limit: how many pairs.

    Raises:
        M2IBError: if no pair could be read.
    """
    moments = {modality: _Moments(encoder.towers[modality].width) for modality in layers}
    seen = 0
    device = next(encoder.model.parameters()).device
    for batch in batches:
        batch = batch.to(device)
        take = min(len(batch), limit - seen)
        for modality, layer in layers.items():
            if take:
                hidden = encoder.towers[modality].prefix(batch.inputs[modality], layer)
                first = batch.first(take)
                moments[modality].add(_finite(hidden.z[first], hidden.valid[first]))
        seen += take
        if seen == limit:
            break
    if seen == 0 or any(moment.count == 0 for moment in moments.values()):
        raise M2IBError(
            "prior=data needs statistics of the layer, and no pair gives any: none could be read, or all give NaN"
        )
    for modality, layer in layers.items():
        known = known.with_prior(modality, layer, moments[modality].prior())
    return known
