"""The folder ``report/`` of a run: thumbnails, and facts of the pairs that the table lacks, as of their truth."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from m2ib_lightning.errors import PairError
from m2ib_lightning.files import atomic_write, atomic_write_text
from m2ib_lightning.pairs.dicom import SUFFIXES
from m2ib_lightning.pairs.images import read_image
from m2ib_lightning.results.drawing import fitted
from m2ib_lightning.run.directory import RunDirectory, heatmap_name
from m2ib_lightning.run.picture_files import PictureFiles

LONGEST_SIDE = 320
"""Longer side of a thumbnail, in pixels."""

INLINE_BYTES = 4 << 20
"""Bytes of pictures that stand in the page itself, so that it can be sent by mail; the others are files beside it."""


class Thumbnails:
    """The thumbnails of a run's pairs, with what is known of their ground truth.

    Args:
        run: the run directory.
        make: whether to make missing thumbnails from the picture files, where they are still there.
    """

    def __init__(self, run: RunDirectory, make: bool = False) -> None:
        self._run = run
        self._facts = read_facts(run)
        self._left = INLINE_BYTES
        self._files = PictureFiles(run.path) if make else None

    def of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``thumb`` (a ``data:`` URI, or the path of a file), and what the writers kept of the pair."""
        facts = {name: value for name, value in self._facts.get(row["key"], {}).items() if name != "key"}
        path = self._run.thumbnails / thumbnail_name(row["id"], row["key"])
        if not _exists(path) and (self._files is None or row.get("error") or not _make(self._files, row, path)):
            return facts
        return facts | {"thumb": self.link(path)}

    def link(self, path: Path) -> str:
        """Return a picture of the run directory as a ``data:`` URI while the budget lasts, then as its path."""
        size = path.stat().st_size
        if size > self._left:
            return f"{path.parent.name}/{quote(path.name)}"
        self._left -= size
        kind = {".png": "png", ".webp": "webp"}.get(path.suffix, "jpeg")
        return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def thumbnail_name(identity: str, key: str) -> str:
    """Return the file name of a pair's thumbnail."""
    return heatmap_name(identity, key, ".jpg")


def save_thumbnail(picture: Image.Image, path: Path) -> None:
    """Write a picture as a JPEG file of at most 320 pixels a side."""
    size = fitted(picture.size, min(LONGEST_SIDE, max(picture.size)))
    small = picture.convert("RGB").resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    with atomic_write(path, sync=False) as file:  # a page without a picture is no loss
        small.save(file, format="JPEG", quality=80)


def append_facts(run: RunDirectory, launch: int, rank: int, facts: Iterable[Mapping[str, Any]]) -> None:
    """Append facts about pairs, one line each, to ``report/truth-<launch>-<rank>.jsonl``; each has its ``key``."""
    lines = [json.dumps(each) + "\n" for each in facts]
    if lines:
        run.thumbnails.mkdir(exist_ok=True)
        with (run.thumbnails / f"truth-{launch:04d}-{rank:05d}.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(lines)


def read_facts(run: RunDirectory) -> dict[str, dict[str, Any]]:
    """Return the facts of the pairs by their keys; lines that are not whole are left out."""
    return {facts["key"]: facts for path in sorted(run.thumbnails.glob("truth-*.jsonl")) for facts in _lines(path)}


def forget_pairs(run: RunDirectory, pairs: Iterable[tuple[str, str]]) -> None:
    """Remove the thumbnails and the facts of pairs that have changed.

    Args:
        run: the run directory, in which no process is at work.
        pairs: the id and the key of each pair.
    """
    keys = set()
    for identity, key in pairs:
        keys.add(key)
        (run.thumbnails / thumbnail_name(identity, key)).unlink(missing_ok=True)
    for path in run.thumbnails.glob("truth-*.jsonl") if keys else ():
        lines = list(_lines(path))
        kept = [json.dumps(facts) + "\n" for facts in lines if facts["key"] not in keys]
        if len(kept) < len(lines):
            atomic_write_text(path, "".join(kept))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            facts = json.loads(line)
        except ValueError:  # the last line of a process that was killed
            continue
        if isinstance(facts, dict) and isinstance(facts.get("key"), str):
            yield facts


def _exists(path: Path) -> bool:
    """Whether there is a file, and not an empty one, which a loss of power may leave."""
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _make(files: PictureFiles, row: Mapping[str, Any], path: Path) -> bool:
    """Make a thumbnail from the picture's file; return whether there is one now."""
    source = files(row.get("image"))
    if source is None or source.suffix.lower() in SUFFIXES:
        return False
    path.parent.mkdir(exist_ok=True)
    try:
        save_thumbnail(read_image(source).picture, path)
    except PairError:  # the picture has changed since the run
        return False
    return True
