"""Reads the page of a run back, as its script does; and makes runs without explaining anything."""

from __future__ import annotations

import base64
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from typing_extensions import override

from m2ib_lightning.run.counts import Counts
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.run.parts import SCHEMA, to_record_batch, write_part


class PageReader(HTMLParser):
    """Parser of a page: its elements, and the text of each script."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    @override
    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)

    @override
    def handle_endtag(self, tag: str) -> None:
        self.elements.append((f"/{tag}", {}))

    @property
    def head(self) -> dict[str, Any]:
        """What the page says of the run as a whole."""
        (text,) = [text for attributes, text in self.scripts if attributes.get("id") == "head"]
        head: dict[str, Any] = json.loads(text)
        return head

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of the page in the order of the source."""
        blocks = [json.loads(text) for attributes, text in self.scripts if attributes.get("class") == "rows"]
        return sorted((row for block in blocks for row in block), key=lambda row: row["n"])


def decoded(packed: list[Any]) -> NDArray[np.float64]:
    """The values of a map, words or curve of a page; NaN for one that is not known."""
    low, high, text = packed
    codes = np.frombuffer(base64.b64decode(text), np.uint8).astype(np.float64)
    return np.where(codes == 255, np.nan, low + codes * (high - low) / 254)


def explained_row(index: int, *, grid: int = 4, **values: Any) -> dict[str, Any]:
    """A row of the table as a run of M2IB writes it, with numbers drawn from the index."""
    draw = np.random.default_rng(index)
    caption = f"a red circle beside ring {index}"
    words = [(0, 1), (2, 5), (6, 12), (13, 19), (20, 24)]
    row = {
        "key": f"pairs.csv:{index}",
        "id": f"id-{index}",
        "image": f"{index}.png",
        "caption": caption,
        "tokens": [caption[start:end] for start, end in words],
        "token_offsets": [list(word) for word in words],
        "text_saliency": draw.gamma(2, 3, len(words)).astype(np.float32).tolist(),
        "image_saliency": draw.gamma(2, 3, grid * grid).astype(np.float32).tolist(),
        "grid_height": grid,
        "grid_width": grid,
        "image_width": 120,
        "image_height": 90,
        "crop": [15, 0, 105, 90],
        "similarity": float(draw.uniform(0, 0.4)),
        "image_information": float(draw.uniform(0, 2)),
        "text_information": float(draw.uniform(0, 2)),
        "image_loss": draw.uniform(0, 1, 10).tolist(),
        "text_loss": draw.uniform(0, 1, 10).tolist(),
    }
    return row | values


def write_run(folder: Path, rows: list[dict[str, Any]], part: str = "part-0001-00000-000000.parquet") -> RunDirectory:
    """Write a table with rows to a run directory, as a rank does."""
    run = RunDirectory(folder)
    run.table.mkdir(parents=True, exist_ok=True)
    failed = sum(row.get("error") is not None for row in rows)
    counts = Counts(done=len(rows) - failed, failed=failed, seconds=1.0)
    write_part(pa.Table.from_batches([to_record_batch(rows)], SCHEMA), counts, run.table / part)
    return run
