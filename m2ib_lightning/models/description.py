"""The description of its tensors in a TorchScript archive, followed without making any object.

``data.pkl`` of an archive is a list of instructions for a stack machine. ``Machine`` follows those that build
containers and describe tensors, and refuses all others. It imports nothing, makes no object of a class that the file
names, and calls no function that the file names.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from m2ib_lightning.errors import quoted

_MOST_PARTS = 100_000
"""Largest number of modules and values in an archive. A CLIP has about 2,000."""

_LONGEST_NAME = 1_000
_MOST_DIMENSIONS = 8

_STORAGES = {
    "torch HalfStorage": torch.float16,
    "torch BFloat16Storage": torch.bfloat16,
    "torch FloatStorage": torch.float32,
    "torch DoubleStorage": torch.float64,
    "torch LongStorage": torch.int64,
    "torch IntStorage": torch.int32,
    "torch ShortStorage": torch.int16,
    "torch CharStorage": torch.int8,
    "torch ByteStorage": torch.uint8,
    "torch BoolStorage": torch.bool,
}


class RefusedError(Exception):
    """A file holds something that is not read; the message says what."""


@dataclass(frozen=True)
class Storage:
    """Numbers in the archive: their dtype, the name of their member, and how many they are."""

    dtype: torch.dtype
    key: str
    count: int


@dataclass(frozen=True)
class Description:
    """The place of a tensor's numbers in a storage."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def view(self, numbers: Tensor) -> Tensor:
        """Return the tensor as a view of its storage's numbers (N,).

        Raises:
            RefusedError: if the tensor does not lie within them, or would repeat them.
        """
        sizes = (self.offset, *self.size, *self.stride)
        if len(sizes) > 1 + 2 * _MOST_DIMENSIONS or any(type(n) is not int or n < 0 for n in sizes):
            raise RefusedError("its data.pkl describes the shape of a tensor wrongly")
        last = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        count = math.prod(self.size)
        if count > len(numbers) or (count and last >= len(numbers)):
            raise RefusedError(f"a tensor of shape {self.size} does not lie within its {len(numbers)} numbers")
        return numbers.as_strided(self.size, self.stride, self.offset)


def described_values(data: bytes, numbers: Collection[str]) -> dict[str, Description | int]:
    """Return the tensors of an archive's modules by dotted name, and whole numbers of the outermost one.

    Args:
        data: the archive's ``data.pkl``. It need not be trusted.
        numbers: names of the whole numbers to return, where they exist.

    Raises:
        RefusedError: if the data has an instruction, a call or a class that describes no tensor.
    """
    top = Machine().run(data)
    if not isinstance(top, _Module):
        raise RefusedError("its data.pkl holds no module")
    values: dict[str, Description | int] = {}
    waiting, parts = [("", top)], 0
    while waiting:
        prefix, module = waiting.pop()
        for name, value in module.attributes.items():
            parts += 1
            if parts > _MOST_PARTS or len(prefix) > _LONGEST_NAME:
                raise RefusedError(f"it has too many modules in each other, or more than {_MOST_PARTS} values")
            if isinstance(value, _Module):
                waiting.append((f"{prefix}{name}.", value))
            elif isinstance(value, Description) or (type(value) is int and prefix + name in numbers):
                values[prefix + name] = value
    return values


@dataclass(frozen=True)
class _Name:
    """A class or function that the file names, and that nobody looks up."""

    name: str


@dataclass
class _Module:
    attributes: dict[str, Any] = field(default_factory=dict)


_MARK = _Name("the beginning of a list")


class Machine:
    """The part of pickle's stack machine that TorchScript's writer uses, with records in place of objects."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        """Follow the instructions, and return the value that they leave on the stack."""
        for operation, value, _ in pickletools.genops(data):
            name, argument = operation.name, cast(Any, value)
            if name == "STOP":
                return self._stack.pop()
            if name in _CONSTANTS:
                self._stack.append(argument)
            elif name in _VALUES:
                self._stack.append(_VALUES[name]())
            elif name in ("BINPUT", "LONG_BINPUT"):
                self._memo[argument] = self._stack[-1]
            elif name in ("BINGET", "LONG_BINGET"):
                self._stack.append(self._memo[argument])
            elif name == "GLOBAL":
                self._stack.append(_Name(argument))
            elif name in _STEPS:
                _STEPS[name](self)
            elif name != "PROTO":
                raise RefusedError(f"its data.pkl has the instruction {name}, which TorchScript does not write")
        raise RefusedError("its data.pkl has no end")

    def _since_mark(self) -> list[Any]:
        """Take the values above the last mark from the stack, and the mark."""
        values: list[Any] = []
        while (value := self._stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def _tuple(self, count: int) -> None:
        self._stack[len(self._stack) - count :] = [tuple(self._stack[len(self._stack) - count :])]

    def _extend(self, values: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise RefusedError("its data.pkl appends to what is no list")
        self._stack[-1].extend(values)

    def _update(self, values: list[Any]) -> None:
        if type(self._stack[-1]) is not dict or not all(type(key) is str for key in values[::2]):
            raise RefusedError("its data.pkl sets a key that is no text, or of what is no dictionary")
        self._stack[-1].update(zip(values[::2], values[1::2], strict=True))

    def _storage(self) -> None:
        kind, numbers, key, _, count = self._stack.pop()
        if not isinstance(numbers, _Name) or numbers.name not in _STORAGES:
            raise RefusedError(f"its data.pkl has numbers of the type {_shown(numbers)}")
        if kind != "storage" or type(key) is not str or type(count) is not int or count < 0:
            raise RefusedError("its data.pkl describes a storage wrongly")
        self._stack.append(Storage(_STORAGES[numbers.name], key, count))

    def _reduce(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, _Name) or function.name not in _RECORDS:
            raise RefusedError(f"its data.pkl calls {_shown(function)}, and no call is made here")
        self._stack.append(_RECORDS[function.name](*arguments))

    def _make_module(self) -> None:
        arguments, kind = self._stack.pop(), self._stack.pop()
        if arguments != () or not isinstance(kind, _Name) or not kind.name.startswith("__torch__"):
            raise RefusedError(f"its data.pkl makes an object of {_shown(kind)}")
        self._stack.append(_Module())

    def _fill_module(self) -> None:
        state = self._stack.pop()
        if type(self._stack[-1]) is not _Module or type(state) is not dict:
            raise RefusedError("its data.pkl sets the state of what is no module")
        self._stack[-1].attributes = state


def _shown(value: Any) -> str:
    return quoted(value.name) if isinstance(value, _Name) else f"a {type(value).__name__}"


def _describe(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Description:
    if type(storage) is not Storage or type(size) is not tuple or type(stride) is not tuple:
        raise RefusedError("its data.pkl describes a tensor wrongly")
    return Description(storage, offset, size, stride)


_CONSTANTS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING"}

_VALUES: dict[str, Callable[[], Any]] = {
    "MARK": lambda: _MARK,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}

_STEPS: dict[str, Callable[[Machine], None]] = {
    "TUPLE": lambda machine: machine._stack.append(tuple(machine._since_mark())),
    "TUPLE1": lambda machine: machine._tuple(1),
    "TUPLE2": lambda machine: machine._tuple(2),
    "TUPLE3": lambda machine: machine._tuple(3),
    "LIST": lambda machine: machine._stack.append(machine._since_mark()),
    "APPEND": lambda machine: machine._extend([machine._stack.pop()]),
    "APPENDS": lambda machine: machine._extend(machine._since_mark()),
    "SETITEM": lambda machine: machine._update([machine._stack.pop(-2), machine._stack.pop()]),
    "SETITEMS": lambda machine: machine._update(machine._since_mark()),
    "BINPERSID": Machine._storage,
    "REDUCE": Machine._reduce,
    "NEWOBJ": Machine._make_module,
    "BUILD": Machine._fill_module,
}

_RECORDS: dict[str, Callable[..., Any]] = {
    "torch._utils _rebuild_tensor_v2": _describe,
    "collections OrderedDict": lambda: {},
    "torch.jit._pickle restore_type_tag": lambda value, *_: value,
    **{f"torch.jit._pickle build_{kind}list": lambda values: values for kind in ("int", "bool", "double", "tensor")},
}
"""What stands for a call of the function of that name: a record of its arguments."""
