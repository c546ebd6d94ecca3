"""Values of keys, from ``key=value`` or from a file, merged into the schema of the configuration."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from functools import cache
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from m2ib_lightning.config import RENAMED, Config
from m2ib_lightning.errors import M2IBError, nearest
from m2ib_lightning.tasks.commands.key_list import keys


def configuration(pairs: Iterable[str], file: DictConfig | None = None, name: str = "") -> Config:
    """Return the configuration that ``key=value`` pairs give, over a file and the defaults.

    Args:
        pairs: texts such as ``seed=3``.
        file: keys and values of a file, or None.
        name: name of the file, for error messages.

    Raises:
        M2IBError: if a key is unknown, or a value has the wrong type.
    """
    config = deepcopy(_schema())
    if file is not None:
        config = _merge(config, file, name)
    for pair in pairs:
        config = _merge(config, _assignment(pair), f"{pair!r}")
    try:
        return cast(Config, OmegaConf.to_object(config))
    except OmegaConfBaseException as error:
        raise M2IBError(f"the configuration does not resolve: {_explanation(error)}") from None


@cache
def _schema() -> DictConfig:
    """Return the configuration of defaults, with the types of its keys."""
    return OmegaConf.structured(Config)


def _assignment(pair: str) -> DictConfig:
    """Return ``key=value`` as a config. The value is YAML, but for keys that hold text it stays as typed."""
    name, _, text = pair.partition("=")
    if not text:
        raise M2IBError(f"{pair!r} has no value; give {name}=null for none")
    if next((key.type for key in keys() if key.name == name), None) == "str" and text != "null":
        values = OmegaConf.create({})
        OmegaConf.update(values, name, text.replace("${", r"\${"))
        return values
    try:
        return OmegaConf.from_dotlist([pair])
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        first_line = str(error).split("\n")[0]
        raise M2IBError(f"{pair!r}: the value is not YAML: {first_line}") from None


def _merge(config: Any, values: Any, origin: str) -> Any:
    """Return the configuration with values merged into it; error messages name their ``origin``."""
    names = [key.name for key in keys()]
    leaves = _leaves(values)
    for old, new in RENAMED.items():
        if old in leaves:
            raise M2IBError(f"{origin}: the key {old!r} is now {new!r}")
    groups = {name.rsplit(".", depth)[0] for name in names for depth in (1, 2)}
    for name in leaves:
        if name not in names and not name.startswith("trainer."):
            if name in groups:
                members = ", ".join(key for key in names if key.startswith(f"{name}."))
                raise M2IBError(f"{origin}: {name} is a group of keys: {members}")
            raise M2IBError(f"{origin}: unknown key {name!r}.{nearest(name, names)} --help lists every key.")
    try:
        return OmegaConf.unsafe_merge(config, values)  # unlike merge, it makes no deep copy of the schema for each key
    except OmegaConfBaseException as error:
        raise M2IBError(f"{origin}: {_explanation(error)}") from None


def _explanation(error: OmegaConfBaseException) -> str:
    """Return the first line of OmegaConf's message, and the type and meaning of the key."""
    first_line = str(error).split("\n")[0]
    key = next((key for key in keys() if key.name == error.full_key), None)
    return f"{first_line}. {key.name} is {key.type}: {key.help}" if key else first_line


def _leaves(values: Any, prefix: str = "") -> list[str]:
    """Return the dotted names of all values in a nested config."""
    names = []
    for name in values:
        value = values._get_node(name)
        if isinstance(value, DictConfig):
            names += _leaves(value, f"{prefix}{name}.")
        else:
            names.append(f"{prefix}{name}")
    return names
