"""Going on with a run: what is done already, and whether it is the same run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from omegaconf import OmegaConf

from m2ib_lightning.config import Config
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.pairs.waiting import WAITING
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.run.journal import journals, recover
from m2ib_lightning.run.parts import read_counts, write_part
from m2ib_lightning.run.table import parts

_CHANGES_NO_RESULT = (
    *("output_dir", "resume", "retry_failed", "model.compile", "bottleneck.max_rows", "bottleneck.preset"),
    *("data.limit", "data.batch_size", "data.num_workers", "data.image_timeout", "output.", "trainer."),
    *("data.allow_", "data.url_", "evaluate.pictures", "evaluate.resamples", "evaluate.baseline"),
    *("finetune.checkpoint_every", "finetune.maps", "finetune.prompt", "finetune.sampled"),
)
"""Keys, or beginnings of keys, that may differ from one launch of a run to the next."""


_PRECISIONS = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}
"""What Lightning takes the short names for."""


def check_same_run(run: RunDirectory, resolved: str) -> None:
    """Whether rows made under the configuration belong into that run's table.

    Args:
        run: the directory that holds a run.
        resolved: the configuration as it would be saved there.

    Raises:
        M2IBError: if a key that changes results differs; names each with both values.
    """
    old, new = _values(run.config.read_text(encoding="utf-8")), _values(resolved)
    differing = [key for key in sorted(old | new) if old.get(key) != new.get(key)]
    if differing:
        raise M2IBError(
            f"resume=true: {str(run.path)!r} holds a run of another configuration: "
            + "; ".join(f"{key} was {old.get(key)!r} and is now {new.get(key)!r}" for key in differing)
            + ". Give what it was (--config RUN/config.yaml does), or another output_dir."
        )


def _values(text: str) -> dict[str, Any]:
    """The keys that change results, flat; the precision, and the statistics' hash, are among them."""
    written = OmegaConf.merge(OmegaConf.create(asdict(Config())), OmegaConf.create(text))  # keys may be new since
    config: Any = OmegaConf.to_container(written)
    flat = {key: value for key, value in _flat(config) if not key.startswith(_CHANGES_NO_RESULT)}
    first = text.split("\n", 1)[0]
    statistics = first.rpartition(": ")[2] if first.startswith("#") else None
    precision = str(config["trainer"].get("precision", "32"))
    return flat | {"trainer.precision": _PRECISIONS.get(precision, precision), "statistics": statistics}


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def put_in_order(run: RunDirectory, retry_failed: bool, within: Callable[[], Iterable[str]] | None = None) -> None:
    """Before a launch: make parts of what killed processes left, and drop failed rows that are to be tried again.

    Args:
        run: where.
        retry_failed: whether any are.
        within: the keys of the pairs that the launch is going to reach, if not all: other rows stay.
    """
    for journal in journals(run.table):
        recover(journal)
    for folder in (run.path, run.table, run.heatmaps):
        for stale in (*folder.glob(".*.tmp"), *folder.glob(".part-*")):  # half files, and journals whose part is there
            stale.unlink(missing_ok=True)  # one may be in both lists
    failed = [part for part in parts(run.table) if retry_failed and read_counts(part).failed]
    if failed and within is not None:
        with WAITING:  # a stream is read for them
            reached = pa.array(within(), pa.string())
    for part in failed:
        _drop_failed(part, None if within is None else reached)


def _drop_failed(part: Path, reached: pa.Array | None) -> None:
    table, counts = pq.read_table(part), read_counts(part)
    failed = pc.is_valid(table["error"])
    again = failed if reached is None else pc.and_(failed, pc.is_in(table["key"], value_set=reached))
    dropped = pc.sum(again).as_py()
    if dropped == table.num_rows:
        part.unlink()
    elif dropped:
        write_part(table.filter(pc.invert(again)), replace(counts, failed=counts.failed - dropped), part)
