"""The registry of attribution methods, and the parser of texts such as ``rise:samples=1000,smooth=0.5``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from m2ib_lightning.errors import M2IBError, nearest
from m2ib_lightning.methods.method import Context, Method
from m2ib_lightning.methods.smoothing import Smoothed
from m2ib_lightning.registry import Registry

METHODS: Registry[type[Method]] = Registry("attribution method", "register_method")


def register_method(name: str, method: type[Method]) -> None:
    """Register an attribution method under a name, for ``method.name``.

    Args:
        name: the new name.
        method: a class derived from ``SaliencyMethod``, or from ``Method``.

    Raises:
        ValueError: if the name is taken.
        TypeError: if the class leaves a method of its base undefined.
    """
    if inspect.isabstract(method):
        missing = ", ".join(sorted(method.__abstractmethods__))
        raise TypeError(
            f"method {name!r}: {method.__name__} must define {missing}. Derive it from SaliencyMethod to define "
            "image_saliency and text_saliency, or from Method to define __call__."
        )
    METHODS.register(name, method)


def make_method(text: str, context: Context) -> Method:
    """Build a method from its name, with options after a colon: ``"rise"``, ``"rise:samples=1000"``.

    ``m2ib`` takes the keys of the bottleneck: ``"m2ib:image.layer=2,image.beta=0.1"``. Every method takes ``smooth``,
    the width in patches of a Gaussian that blurs the image's map.

    Raises:
        M2IBError: if the method or an option is unknown, or a value is wrong; the message lists what exists.
    """
    name, options, sigma = parse_smoothed(text)
    method = METHODS.get(name)
    _check_options(text, name, method, options)
    with naming(text):
        instance = method(context, **options)
    return Smoothed(instance, sigma) if sigma else instance


def _check_options(text: str, name: str, method: type[Method], options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(method.__init__).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return  # the method checks its options itself
    names = [key for key, parameter in parameters.items() if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    for key, value in options.items():
        if key not in names:
            has = f"it has {', '.join(names)}.{nearest(key, names)}" if names else "it has none"
            raise M2IBError(f"method {name!r} has no option {key!r}: {has}")
        real = isinstance(parameters[key].default, float)
        if type(value) is not int and not (real and type(value) is float):
            kind = "number" if real else "whole number"
            raise M2IBError(f"method {text!r}: {key} must be a {kind}, got {value!r}")


def parse_method(text: str) -> tuple[str, dict[str, Any]]:
    """Parse the name and the options of ``"name:key=value,key=value"``; dotted keys nest.

    >>> parse_method("m2ib:steps=3,image.beta=0.2")
    ('m2ib', {'steps': 3, 'image': {'beta': 0.2}})

    Raises:
        M2IBError: if the options are not of that form.
    """
    name, _, rest = text.partition(":")
    assignments = [assignment for assignment in rest.split(",") if assignment]
    try:
        if not all("=" in assignment for assignment in assignments):
            raise ValueError
        options: Any = OmegaConf.to_container(OmegaConf.from_dotlist(assignments))
    except (ValueError, OmegaConfBaseException, yaml.YAMLError):
        raise M2IBError(f"method {text!r}: expected name, or name:option=value,option=value") from None
    return name, options


def parse_smoothed(text: str) -> tuple[str, dict[str, Any], float]:
    """Parse a method as ``parse_method`` does, and return its option ``smooth`` separately; 0 means no blur.

    >>> parse_smoothed("rise:samples=100,smooth=0.5"), parse_smoothed("m2ib")
    (('rise', {'samples': 100}, 0.5), ('m2ib', {}, 0.0))

    Raises:
        M2IBError: if the options are not of that form, or ``smooth`` is not from 0 to 100.
    """
    name, options = parse_method(text)
    sigma = options.pop("smooth", 0)
    if isinstance(sigma, bool) or not isinstance(sigma, int | float) or not 0 <= sigma <= 100:
        raise M2IBError(f"method {text!r}: smooth must be a number of patches, from 0 to 100, got {sigma!r}")
    return name, options, float(sigma)


@contextmanager
def naming(method: str) -> Iterator[None]:
    """Name the method at the start of each ``M2IBError`` that is raised in this context."""
    try:
        yield
    except M2IBError as error:
        raise M2IBError(f"method {method!r}: {error}") from None
