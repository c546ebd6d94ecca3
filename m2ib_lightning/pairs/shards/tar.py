"""WebDataset shards: tar files with consecutive members for each sample, read forwards in memory."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from m2ib_lightning.errors import PairError, quoted, shortened
from m2ib_lightning.pairs.images import looks_like_an_image
from m2ib_lightning.pairs.shards.tar_archive import open_archive

MAX_SAMPLE_BYTES = 256 * 2**20
"""Size of the largest sample that is read; the limit bounds the memory."""

MAX_TEXT_BYTES = 2**20
"""Size of the largest caption member that is read."""

MAX_JSON_BYTES = 16 * 2**20
"""Size of the largest JSON member that is read; its objects take up to 30 times as much memory."""

TEXTS = ("txt", "text", "caption")
"""Extensions of caption members."""

_MEMBER = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)", re.DOTALL)
"""Pattern of a member's name: the sample's key up to the first dot, then the extension. Hidden files don't match."""


def read_tar(file: io.BufferedReader) -> Iterator[dict[str, Any] | PairError]:
    """Yield the samples of a shard in order, with a ``PairError`` for each broken sample.

    A sample has a cell for each extension, and ``__key__``. Texts are decoded and stripped, and JSON is parsed. The
    fields of ``.json`` become cells too, unless a member has their name. Everything else stays bytes. No member is
    written to disk, whatever its name.

    Raises:
        Exception: of many kinds, if the rest can't be read; a sample that may be incomplete is not yielded.
    """
    with open_archive(file) as archive:
        sample = None
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # otherwise it keeps every header
            named = _MEMBER.fullmatch(member.name)
            if named is None or not member.isreg():
                continue
            if sample is None or sample.key != named[1]:
                if sample is not None:
                    yield sample.cells()
                sample = _Sample(named[1])
            sample.add(named[2].lower(), archive, member)
        if sample is not None:
            yield sample.cells()


class _Sample:
    """The members of a sample, which share a key."""

    def __init__(self, key: str) -> None:
        self.key = key
        self._parts: dict[str, bytes] = {}
        self._size = 0
        self._error: str | None = None

    def add(self, extension: str, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Read a member of the sample."""
        self._size += member.size + tarfile.BLOCKSIZE + len(member.name)
        kind, limit = _limit_of(extension)
        if self._error is None and extension in self._parts:
            self._fail(
                f"two members of sample {quoted(self.key)} end in .{shortened(extension)}: give each sample a name of "
                "its own"
            )
        if self._error is None and self._size > MAX_SAMPLE_BYTES:
            self._fail(
                f"sample {quoted(self.key)} has more than {MAX_SAMPLE_BYTES // 2**20} MiB with {quoted(member.name)}, "
                "and was not read; the names of samples must differ before their first dot"
            )
        if self._error is None and member.size > limit:
            self._fail(f"{quoted(member.name)} has {member.size:,} bytes: {kind} of up to {limit:,} bytes is read")
        if self._error is None:
            assert archive.fileobj is not None  # its position is the start of the member's data
            self._parts[extension] = archive.fileobj.read(member.size)
            if len(self._parts[extension]) != member.size:
                raise tarfile.ReadError("unexpected end of data")

    def cells(self) -> dict[str, Any] | PairError:
        """Return the cells of the sample, or the error that makes it unreadable."""
        if self._error is not None:
            return PairError(self._error)
        try:
            cells = {"__key__": self.key} | {name: self._cell(name, part) for name, part in self._parts.items()}
        except PairError as error:
            return error
        fields = cells.get("json")
        extra = {name: field for name, field in fields.items() if name not in cells} if isinstance(fields, dict) else {}
        return cells | extra

    def _cell(self, extension: str, part: bytes) -> Any:
        kind = extension.rpartition(".")[2]
        if kind not in (*TEXTS, "json"):
            return part
        name = shortened(f"{self.key}.{extension}")
        try:
            text = part.decode("utf-8-sig")
            return json.loads(text) if kind == "json" else text.strip()
        except UnicodeDecodeError as error:
            raise PairError(f"{name} is not UTF-8 (byte 0x{part[error.start]:02x}): save it as UTF-8") from None
        except (ValueError, RecursionError) as error:
            raise PairError(f"{name} is not JSON: {error}") from None

    def _fail(self, why: str) -> None:
        self._error = why
        self._parts.clear()


def _limit_of(extension: str) -> tuple[str, int]:
    """What a member of this extension holds, and the size of the largest that is read."""
    kind = extension.rpartition(".")[2]
    if kind in TEXTS:
        return "text", MAX_TEXT_BYTES
    return ("JSON", MAX_JSON_BYTES) if kind == "json" else ("a member", MAX_SAMPLE_BYTES)


@dataclass(frozen=True)
class Aliases:
    """The user's column names, as aliases of a sample's text and image.

    Attributes:
        text: name of the text column.
        image: name of the image column.
        rename_text: whether ``text`` is an alias of a sample's first member of ``TEXTS``.
        rename_image: whether ``image`` is an alias of a sample's first image.
    """

    text: str
    image: str
    rename_text: bool
    rename_image: bool

    @classmethod
    def of(cls, samples: list[dict[str, Any]], names: tuple[str, str]) -> Aliases:
        """Choose the aliases from the first samples, so that a column means the same in every row.

        The text column is not an alias if any sample has a cell of that name. The image column is not an alias if any
        sample has a member of that name.

        Args:
            samples: cells of the first samples.
            names: names of the text and the image column.
        """
        text, image = names
        return cls(
            text,
            image,
            any(name in cells for cells in samples for name in TEXTS) and not any(text in cells for cells in samples),
            any(map(_image_members, samples)) and not any(isinstance(cells.get(image), bytes) for cells in samples),
        )

    @property
    def columns(self) -> list[str]:
        """The names of the columns that the aliases add."""
        return [self.text] * self.rename_text + [self.image] * self.rename_image

    def add(self, cells: dict[str, Any]) -> dict[str, Any]:
        """Return the cells of a sample with the aliases; a missing text or image is None."""
        text = (
            next((cells[name] for name in TEXTS if name in cells), None) if self.rename_text else cells.get(self.text)
        )
        image = next(iter(_image_members(cells)), None) if self.rename_image else cells.get(self.image)
        return cells | {self.text: text, self.image: image}


def _image_members(cells: dict[str, Any]) -> list[bytes]:
    """The images of a sample with a plain extension; the user must name others, such as ``mask.png``."""
    return [
        cell
        for name, cell in cells.items()
        if isinstance(cell, bytes) and "." not in name and looks_like_an_image(f"x.{name}")
    ]
