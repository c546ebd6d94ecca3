"""The tensors of a checkpoint file, read without running anything that the file says."""

from __future__ import annotations

import re
import stat
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from m2ib_lightning.errors import M2IBError, quoted
from m2ib_lightning.files import first_line
from m2ib_lightning.models.description import Description, RefusedError, Storage, described_values

_DESCRIPTION_BYTES = 4 << 20
"""Largest size of an archive's ``data.pkl``. That of a CLIP has about 0.1 MB."""

_READ = (["data"], ["data.pkl"], ["byteorder"])
"""Members of a TorchScript archive that are read, below its root. The others may be compressed."""

_Members = Mapping[str, zipfile.ZipInfo]


def read_checkpoint(path: Path, numbers: Collection[str] = ()) -> dict[str, Any]:
    """Return what a checkpoint file holds: names and tensors, or a training's dictionary with those inside.

    A file of ``torch.save`` is read by ``torch.load(weights_only=True)``, which makes tensors and plain containers and
    calls nothing else; a ``.safetensors`` file by safetensors. A TorchScript archive is *not* given to
    ``torch.jit.load``, which builds the archive's program. Of it, only the description of the modules
    (``data.pkl``, followed as in ``description.py``) and the tensors' numbers are read. Its code, its constants and its
    debug files are never opened.

    Args:
        path: the file. It need not be trusted.
        numbers: names of whole numbers that are read, too, if a TorchScript archive has them.

    Raises:
        M2IBError: if the file is damaged, is of another kind, or holds more than plain values and tensors.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise RefusedError("it is not a regular file")
        if not status.st_size:
            raise RefusedError("it is empty")
        return _read(path, status.st_size, numbers)
    except MemoryError:
        raise
    except Exception as error:  # a damaged or hostile file makes the readers raise anything
        raise M2IBError(
            f"could not read the checkpoint {str(path)!r}: {_reason(error)}. Expected is a state dict (torch.save), a "
            "TorchScript archive (torch.jit.save) or a .safetensors file. Nothing in the file was run"
        ) from None


def _read(path: Path, size: int, numbers: Collection[str]) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(path))
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    if not zipped:
        return _dictionary(torch.load(path, map_location="cpu", weights_only=True))  # written before torch 1.6
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        script = any(name.endswith("/constants.pkl") for name in members)
        used = [info for name, info in members.items() if not script or name.split("/")[1:2] in _READ]
        _check_members(used, size)
        if script:
            return _read_script(archive, members, numbers)
    return _dictionary(torch.load(path, map_location="cpu", weights_only=True, mmap=True))


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    """Check that the members are as large as they claim: none is compressed, none shares its bytes with another."""
    packed = [info.filename for info in members if info.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise RefusedError(f"its part {quoted(packed[0])} is compressed, which torch.save never does")
    if sum(info.file_size for info in members) > size:
        raise RefusedError("its parts claim more bytes than the file has")


def _dictionary(content: Any) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        raise RefusedError(f"it holds a {type(content).__name__}, not names and tensors")
    return {str(name): value for name, value in content.items()}


def _reason(error: Exception) -> str:
    """Return the cause in a line; that of ``weights_only`` is deep in a long text."""
    if isinstance(error, RefusedError | OSError):
        return first_line(error)
    if foreign := re.search(r"GLOBAL (\S+)", str(error)):
        name = foreign[1].strip(".,'\"")
        return f"it holds {quoted(name)}, which is no tensor (if you trust the file, save its state dict alone)"
    if isinstance(error, zipfile.BadZipFile):
        return f"it begins like a zip archive, and is damaged or cut off ({first_line(error)})"
    return "it is damaged, or of another kind"


def _read_script(archive: zipfile.ZipFile, members: _Members, numbers: Collection[str]) -> dict[str, Any]:
    descriptions = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(descriptions) != 1:
        raise RefusedError(f"a TorchScript archive has one data.pkl, and this one has {len(descriptions)}")
    if members[descriptions[0]].file_size > _DESCRIPTION_BYTES:
        raise RefusedError(f"its data.pkl has more than {_DESCRIPTION_BYTES} bytes")
    root = descriptions[0].removesuffix("data.pkl")
    if f"{root}byteorder" in members and archive.read(f"{root}byteorder") != b"little":
        raise RefusedError("its numbers are big-endian")
    storages: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for name, value in described_values(archive.read(descriptions[0]), numbers).items():
        if isinstance(value, Description):
            key = value.storage.key
            if key not in storages:
                storages[key] = _numbers(archive, members, f"{root}data/{key}", value.storage)
            values[name] = value.view(storages[key])
        else:
            values[name] = value
    if not storages:
        raise RefusedError("its tensors have no names, as after torch.jit.freeze: save the module before that")
    return values


def _numbers(archive: zipfile.ZipFile, members: _Members, member: str, storage: Storage) -> Tensor:
    """Return the numbers (N,) of a storage."""
    expected = storage.count * storage.dtype.itemsize
    if member not in members or members[member].file_size != expected:
        size = f"{members[member].file_size} bytes" if member in members else "nothing"
        raise RefusedError(f"its part {quoted(member)} must have {expected} bytes, and has {size}")
    data = bytearray(archive.read(member))
    return torch.frombuffer(data, dtype=storage.dtype) if data else torch.empty(0, dtype=storage.dtype)
