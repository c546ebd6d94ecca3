"""The bottleneck's settings; the defaults are the published values."""

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
    """Settings of one tower's bottleneck.

    Attributes:
        layer: index of the block whose output goes through the bottleneck; -1 stands for the first block's input.
            None means the published 9 of 12, scaled to the tower's depth: ``min(round(0.75 * depth), depth - 2)``.
        beta: weight of the information (nats) against the similarity.
        sigma: scale of the noise, in units of the prior's standard deviation.
        granularity: ``element`` (one gate per token and channel) or ``token`` (one gate per token).
        prior: ``unit`` (mean 0, standard deviation 1) or ``data`` (per-channel statistics of the layer).
    """

    layer: int | None = None
    beta: float = 0.1
    sigma: float = 1.0
    granularity: str = "element"
    prior: str = "unit"

    def __post_init__(self) -> None:
        _require(self.layer is None or type(self.layer) is int, f"layer must be a whole number, got {self.layer!r}")
        _require_numbers(self, "beta", "sigma")
        _require_choice("granularity", self.granularity, GRANULARITIES)
        _require_choice("prior", self.prior, PRIORS)
        _require(self.beta >= 0, f"beta must not be negative, got {self.beta}")
        _require(self.sigma > 0, f"sigma must be positive, got {self.sigma}")


@dataclass(frozen=True)
class BottleneckSettings:
    """Settings of both towers and of their optimisation. The defaults are the published values.

    Attributes:
        image: settings of the image tower.
        text: settings of the text tower.
        steps: number of optimiser steps.
        lr: Adam's learning rate.
        noise_samples: number of noise draws K per step.
        centred_noise: whether the mean of a step's draws is subtracted from them, which makes maps depend less on the
            seed at no cost. A single draw stays as it is.
        initial_alpha: start value of every alpha (lambda = sigmoid(alpha)).
        calibration_pairs: number of pairs that the statistics of ``prior=data`` are computed from.
        path: number of betas that the image's map is read along, from a quarter to 8 times ``image.beta``; 1 is the
            published reading, at ``image.beta`` alone. The cost of the image grows with it.
        opposite: whether the picture is also optimised against the opposite target, and the map read as what passes
            beyond that; it doubles the cost of the image.
        max_rows: largest number of rows that go through the blocks after the cut at a time. A row is one token of one
            draw of one pair. The limit bounds memory and changes no result; None chooses a value for the device.
    """

    image: TowerSettings = field(default_factory=TowerSettings)
    text: TowerSettings = field(default_factory=TowerSettings)
    steps: int = 10
    lr: float = 1.0
    noise_samples: int = 10
    centred_noise: bool = False
    initial_alpha: float = 5.0
    calibration_pairs: int = 1000
    path: int = 1
    opposite: bool = False
    max_rows: int | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "noise_samples", "calibration_pairs", "path"):
            _require_count(name, getattr(self, name))
        if self.max_rows is not None:
            _require_count("max_rows", self.max_rows)
        _require_numbers(self, "lr", "initial_alpha")
        for name in ("centred_noise", "opposite"):
            value = getattr(self, name)
            _require(type(value) is bool, f"{name} must be true or false, got {value!r}")
        _require(self.lr > 0, f"lr must be positive, got {self.lr}")

    def tower(self, modality: Modality) -> TowerSettings:
        """Return the settings of one tower."""
        return self.image if modality == "image" else self.text

    def override(self, values: Mapping[str, Any]) -> BottleneckSettings:
        """Return a copy of these settings in which ``values`` replace the old ones.

        A value of None leaves the setting as it is. The settings of a tower are a nested mapping.

        >>> BottleneckSettings().override({"steps": 3, "image": {"layer": -1, "beta": None}}).image.layer
        -1

        Raises:
            M2IBError: if a key is unknown or a value is out of range. The message names the nearest known key.
        """
        flat = {key: value for key, value in values.items() if value is not None and key not in MODALITIES}
        towers = {m: _replace(self.tower(m), values.get(m) or {}, f"bottleneck.{m}") for m in MODALITIES}
        return replace(_replace(self, flat, "bottleneck"), **towers)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as a nested dict of plain types, for YAML and hyperparameters."""
        return asdict(self)


def _replace(settings: Any, values: Mapping[str, Any], where: str) -> Any:
    names = [item.name for item in fields(settings)]
    if not isinstance(values, Mapping):
        raise M2IBError(f"{where} must be a mapping of {', '.join(names)}, got {values!r}")
    for key in values:
        if key not in names:
            raise M2IBError(f"unknown key {where}.{key}: choose from {', '.join(names)}.{nearest(key, names)}")
    return replace(settings, **{key: value for key, value in values.items() if value is not None})


def _require_numbers(settings: Any, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        _require(is_number, f"{name} must be a number, got {value!r}")


def _require_count(name: str, value: Any) -> None:
    _require(type(value) is int and value >= 1, f"{name} must be a whole number of at least 1, got {value!r}")


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    _require(value in choices, f"{name} must be one of {', '.join(choices)}, got {value!r}.{nearest(value, choices)}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise M2IBError(f"bottleneck: {message}")
