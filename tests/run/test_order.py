"""The table in source order: sorted by Arrow as Python would."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest

from m2ib_lightning.run import table as table_module
from m2ib_lightning.run.parts import SCHEMA
from m2ib_lightning.run.table import _order, _reordered, source_order

NAMES = ["a.csv", "b", "a:b.tar", "", "é.tar", "\U0001f600", "z\n", "ab", "A", "hf://x/y"]


def keys_like(ending: str) -> list[str]:
    """Keys of many files, some with items, and two with a given ending."""
    rng = random.Random(0)
    items = ["", "", ".0", ".1", ".10", ".2", ".007"]
    keys = {f"{rng.choice(NAMES)}:{rng.randrange(2000)}{rng.choice(items)}" for _ in range(3000)}
    shuffled = [*sorted(keys), f"a.csv:7{ending}", f"b:8{ending}"]
    rng.shuffle(shuffled)
    return shuffled


@pytest.mark.parametrize(
    "ending", ["", ".1.2", "x", " ", "99999999999999999999", "\n", "\u0663"], ids=["plain", *"abcdef"]
)
def test_arrow_sorts_keys_as_python_does(ending: str) -> None:
    keys = keys_like(ending)
    chunks = [keys[first : first + 100] for first in range(0, len(keys), 100)]
    order = _order(pa.chunked_array([*chunks, []], pa.string())).to_pylist()
    assert order == sorted(range(len(keys)), key=[source_order(key) for key in keys].__getitem__)


def test_an_empty_table_is_reordered() -> None:
    assert len(_order(SCHEMA.empty_table()["key"])) == 0
    assert _reordered(SCHEMA.empty_table(), pa.array([], pa.uint64())) == SCHEMA.empty_table()


def test_rows_are_reordered_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {
            "key": f"k:{k}",
            "id": str(k),
            "tokens": ["a", None, str(k)][: k % 4],
            "token_offsets": [[0, k], None][: k % 3],
        }
        for k in range(50)
    ]
    table = pa.concat_tables(pa.Table.from_pylist(rows[first : first + 7], SCHEMA) for first in range(0, 50, 7))
    order = list(range(50))
    random.Random(1).shuffle(order)
    monkeypatch.setattr(table_module, "_CHUNK_ROWS", 8)
    reordered = _reordered(table, pa.array(order, pa.uint64()))
    assert reordered.schema == SCHEMA
    assert reordered.to_pylist() == [table.slice(row, 1).to_pylist()[0] for row in order]
    assert max(len(chunk) for chunk in reordered["key"].chunks) == 8
