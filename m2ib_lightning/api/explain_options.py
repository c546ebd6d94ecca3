"""The options that ``explain`` and ``ground`` share, with the bottleneck's settings among them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypedDict, TypeVar, cast, get_type_hints

import torch

from m2ib_lightning.config import MODALITIES, Preset
from m2ib_lightning.errors import M2IBError, nearest
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.m2ib.statistics import Statistics

Function = TypeVar("Function", bound=Callable[..., Any])

OF_BOTH_TOWERS = ("layer", "beta", "sigma", "granularity", "prior")
"""Options that set the same value in both towers. ``bottleneck=`` sets that of one."""


_SETTINGS = [field.name for field in fields(BottleneckSettings)]
"""Settings that ``bottleneck=`` takes."""


class Options(TypedDict, total=False):
    """The options that ``explain`` and ``ground`` share."""

    model: Any
    processor: Any
    method: str
    layer: int | None
    beta: float | None
    sigma: float | None
    granularity: str | None
    prior: str | None
    steps: int | None
    preset: Preset
    bottleneck: Mapping[str, Any] | None
    statistics: Statistics | str | Path | None
    fit: str | None
    seed: int
    batch_size: int
    device: str | torch.device | None
    dtype: torch.dtype


DEFAULTS = Options(
    model=None,
    processor=None,
    method="m2ib",
    layer=None,
    beta=None,
    sigma=None,
    granularity=None,
    prior=None,
    steps=None,
    preset="recommended",
    bottleneck=None,
    statistics=None,
    fit=None,
    seed=0,
    batch_size=8,
    device=None,
    dtype=torch.float32,
)
"""Values of options that are not given; the docstring of ``explain`` says what they mean."""


def complete(options: Options) -> Options:
    """Return the options with defaults for those that are not given.

    Raises:
        M2IBError: if a value is out of range.
    """
    whole: Options = {**DEFAULTS, **options}
    if whole["batch_size"] < 1:
        raise M2IBError(f"batch_size must be at least 1, got {whole['batch_size']}")
    if whole["dtype"] not in (torch.float32, torch.float64):
        raise M2IBError(f"dtype must be torch.float32 or torch.float64, got {whole['dtype']!r}")
    if whole["preset"] not in ("recommended", "published"):
        raise M2IBError(
            f"preset must be 'recommended' (the model folder's values) or 'published' (the paper's), got "
            f"{whole['preset']!r}.{nearest(str(whole['preset']), ('recommended', 'published'))}"
        )
    return whole


def bottleneck_values(options: Options) -> dict[str, Any]:
    """Return the settings to override in both towers, as ``BottleneckSettings.override`` takes them.

    Raises:
        M2IBError: if a setting is given twice, by its own name and in ``bottleneck``.
    """
    values = dict(options["bottleneck"] or {})
    for name in OF_BOTH_TOWERS:
        value = options[name]  # type: ignore[literal-required]
        if value is None:
            continue
        for modality in MODALITIES:
            tower = values.get(modality) or {}
            if isinstance(tower, Mapping) and tower.get(name) is not None:
                raise M2IBError(
                    f"{name}={value!r} sets both towers, and bottleneck= has {modality}.{name}={tower[name]!r}: "
                    "give one of them"
                )
            values[modality] = {**tower, name: value} if isinstance(tower, Mapping) else tower
    if options["steps"] is not None:
        if values.get("steps") is not None:
            raise M2IBError(f"steps={options['steps']!r} and bottleneck= has steps={values['steps']!r}: give one")
        values["steps"] = options["steps"]
    return values


def takes_options(function: Function) -> Function:
    """Decorate a function whose ``**options`` are ``Options``: its signature lists them, and others are refused.

    Editors, ``help`` and notebooks then show their names and defaults.
    """
    signature = inspect.signature(function)
    *parameters, _ = signature.parameters.values()
    own = [parameter.name for parameter in parameters]
    types = get_type_hints(Options)
    listed = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=types[name])
        for name, default in DEFAULTS.items()
    ]

    def checked(*arguments: Any, **options: Any) -> Any:
        for name in options:
            if name not in DEFAULTS and name not in own:
                raise TypeError(f"{function.__name__}() has no argument {name!r}.{_advice(name, [*own, *DEFAULTS])}")
        return function(*arguments, **options)

    wrapped: Any = functools.update_wrapper(checked, function)
    wrapped.__signature__ = signature.replace(parameters=[*parameters, *listed])
    return cast(Function, wrapped)


def _advice(name: str, names: list[str]) -> str:
    """Say which argument is meant, or where the name belongs."""
    if name in _SETTINGS:
        return f" It is a setting: bottleneck={{{name!r}: ...}}"
    return nearest(name, names) or f" It has {', '.join(names)}"
