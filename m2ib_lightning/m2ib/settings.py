"""The bottleneck's settings: what is published, what a model folder recommends, what the user says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from m2ib_lightning.config import MODALITIES, Modality
from m2ib_lightning.errors import M2IBError, nearest

GRANULARITIES = ("element", "token")
PRIORS = ("unit", "data")


@dataclass(frozen=True)
class TowerSettings:
    """The bottleneck of one tower.

    Attributes:
        layer: it reads the output of this block, counted from 0; -1 is the first block's input. None: the published
            9 of 12, scaled to the depth of the tower, ``min(round(0.75 * depth), depth - 2)``.
        beta: weight of the information (nats) against the similarity.
        sigma: scale of the noise, in units of the prior's standard deviation.
        granularity: ``element`` (one gate per token and channel) or ``token`` (one gate per token).
        prior: ``unit`` (mean 0, deviation 1) or ``data`` (per-channel statistics of the layer).
    """

    layer: int | None = None
    beta: float = 0.1
    sigma: float = 1.0
    granularity: str = "element"
    prior: str = "unit"

    def __post_init__(self) -> None:
        _check(self.layer is None or type(self.layer) is int, f"layer must be a whole number, got {self.layer!r}")
        _check_numbers(self, "beta", "sigma")
        _check_choice("granularity", self.granularity, GRANULARITIES)
        _check_choice("prior", self.prior, PRIORS)
        _check(self.beta >= 0, f"beta must not be negative, got {self.beta}")
        _check(self.sigma > 0, f"sigma must be positive, got {self.sigma}")


@dataclass(frozen=True)
class BottleneckSettings:
    """Both towers and the optimisation they share. The defaults are the published values.

    Attributes:
        image: the image tower.
        text: the text tower.
        steps: optimiser steps.
        lr: Adam's learning rate.
        noise_samples: draws K per step.
        initial_alpha: where every alpha starts (lambda = sigmoid(alpha)).
        calibration_pairs: how many pairs the statistics of ``prior=data`` are taken from.
        max_rows: tokens (of one draw of one pair each) that go through the blocks after the cut at a time, which bounds
            their memory and changes no result; None for what suits the device.
    """

    image: TowerSettings = field(default_factory=TowerSettings)
    text: TowerSettings = field(default_factory=TowerSettings)
    steps: int = 10
    lr: float = 1.0
    noise_samples: int = 10
    initial_alpha: float = 5.0
    calibration_pairs: int = 1000
    max_rows: int | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "noise_samples", "calibration_pairs"):
            value = getattr(self, name)
            _check(type(value) is int and value >= 1, f"{name} must be a whole number of at least 1, got {value!r}")
        rows = self.max_rows
        _check(
            rows is None or (type(rows) is int and rows >= 1),
            f"max_rows must be a whole number of at least 1, got {rows!r}",
        )
        _check_numbers(self, "lr", "initial_alpha")
        _check(self.lr > 0, f"lr must be positive, got {self.lr}")

    def tower(self, modality: Modality) -> TowerSettings:
        """The settings of one tower."""
        return self.image if modality == "image" else self.text

    def override(self, values: Mapping[str, Any]) -> BottleneckSettings:
        """These settings with the non-null ``values`` in their place; towers are nested mappings.

        >>> BottleneckSettings().override({"steps": 3, "image": {"layer": -1, "beta": None}}).image.layer
        -1

        Raises:
            M2IBError: on an unknown key (names the nearest) or a value out of range.
        """
        flat = {key: value for key, value in values.items() if value is not None and key not in MODALITIES}
        towers = {m: _replace(self.tower(m), values.get(m) or {}, f"bottleneck.{m}") for m in MODALITIES}
        return replace(_replace(self, flat, "bottleneck"), **towers)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for YAML and hyperparameters."""
        return asdict(self)


def _replace(settings: Any, values: Mapping[str, Any], where: str) -> Any:
    known = [field.name for field in fields(settings)]
    if not isinstance(values, Mapping):
        raise M2IBError(f"{where} must be a mapping of {', '.join(known)}, got {values!r}")
    for key in values:
        if key not in known:
            raise M2IBError(f"unknown key {where}.{key}: there is {', '.join(known)}.{nearest(key, known)}")
    return replace(settings, **{key: value for key, value in values.items() if value is not None})


def _check_numbers(settings: Any, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        _check(number, f"{name} must be a number, got {value!r}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    _check(value in choices, f"{name} must be one of {', '.join(choices)}, got {value!r}.{nearest(value, choices)}")


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise M2IBError(f"bottleneck: {message}")
