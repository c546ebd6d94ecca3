"""The list of all keys of the configuration, from the schema."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from m2ib_lightning.config import Config


@dataclass(frozen=True)
class Key:
    """A key of the configuration, as ``--help`` prints it: dotted name, type or accepted values, default, meaning."""

    name: str
    type: str
    default: str
    help: str


@cache
def keys(schema: type = Config, prefix: str = "") -> tuple[Key, ...]:
    """Return every key of a schema in its order, with dotted names that begin with ``prefix``."""
    listed: list[Key] = []
    hints = get_type_hints(schema)
    for item in fields(schema):
        hint, name = hints[item.name], prefix + item.name
        if is_dataclass(hint) and isinstance(hint, type):
            listed += keys(hint, f"{name}.")
        elif name == "trainer":
            listed.append(Key("trainer.*", "Trainer's", "Trainer's", item.metadata["help"]))
        else:
            default = "null" if item.default is None else str(item.default)
            listed.append(Key(name, _type_name(hint), default, item.metadata["help"]))
    return tuple(listed)


def _type_name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "|".join(get_args(hint))
    arguments = [argument for argument in get_args(hint) if argument is not type(None)]
    return " or ".join(argument.__name__ for argument in arguments) if arguments else str(hint.__name__)
