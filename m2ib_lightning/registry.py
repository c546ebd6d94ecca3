"""Registries that users can extend. The error of an unknown name says how to add an item."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Generic, TypeVar

from m2ib_lightning.errors import M2IBError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """A mapping from names to items that refuses duplicates.

    Args:
        kind: kind of the items, for error messages, such as "data source".
        register_function: name of the public function that adds an item, for error messages.
    """

    def __init__(self, kind: str, register_function: str) -> None:
        self.kind = kind
        self.register_function = register_function
        self._items: dict[str, T] = {}
        self._paths: dict[str, str] = {}

    def register(self, name: str, item: T) -> None:
        """Add an item under a new name.

        Raises:
            ValueError: if the name is taken.
        """
        if name in self:
            raise ValueError(f"the {self.kind} {name!r} is registered already; choose another name")
        self._items[name] = item

    def register_path(self, name: str, path: str) -> None:
        """Add an item by its import path; ``get`` imports it on first use.

        It is for items of a module that the registering module may not import.

        Args:
            name: the new name.
            path: import path, ``<module>:<attribute>``.

        Raises:
            ValueError: if the name is taken.
        """
        if name in self:
            raise ValueError(f"the {self.kind} {name!r} is registered already; choose another name")
        self._paths[name] = path

    def get(self, name: str) -> T:
        """Return the item of a name.

        Raises:
            M2IBError: if the name is unknown. The message lists the names that exist.
        """
        if name not in self:
            raise M2IBError(
                f"unknown {self.kind} {name!r}: choose from {', '.join(self)}.{nearest(name, self)} "
                f"Your own can be added with m2ib_lightning.{self.register_function}(...)."
            )
        if name not in self._items:
            module, _, attribute = self._paths[name].partition(":")
            self._items[name] = getattr(import_module(module), attribute)
        return self._items[name]

    def __contains__(self, name: object) -> bool:
        return name in self._items or name in self._paths

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._items, *self._paths}))
