"""Named things that users can add to: each registry refuses duplicates and says how to register what it lacks."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Generic, TypeVar

from m2ib_lightning.errors import M2IBError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """A guarded mapping from names to things.

    Args:
        kind: what is registered, for messages ("data source").
        register_function: the public function that adds one, named when a name is unknown.
    """

    def __init__(self, kind: str, register_function: str) -> None:
        self.kind = kind
        self.register_function = register_function
        self._items: dict[str, T] = {}
        self._paths: dict[str, str] = {}

    def register(self, name: str, item: T) -> None:
        """Add ``item``.

        Raises:
            ValueError: if the name is taken.
        """
        if name in self:
            raise ValueError(f"the {self.kind} {name!r} is registered already; choose another name")
        self._items[name] = item

    def register_path(self, name: str, path: str) -> None:
        """Add the thing that ``path`` names; it is imported when it is first asked for.

        Args:
            name: as in ``register``.
            path: ``<module>:<attribute>``, of a module that a module which registers here may not import.

        Raises:
            ValueError: if the name is taken.
        """
        if name in self:
            raise ValueError(f"the {self.kind} {name!r} is registered already; choose another name")
        self._paths[name] = path

    def get(self, name: str) -> T:
        """The thing of that name.

        Raises:
            M2IBError: if there is none; lists those that exist.
        """
        if name not in self:
            raise M2IBError(
                f"unknown {self.kind} {name!r}: there is {', '.join(self)}.{nearest(name, self)} "
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
