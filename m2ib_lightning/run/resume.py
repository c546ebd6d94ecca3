"""Resuming a run: the check of its configuration, and the recovery of its table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from m2ib_lightning.config import Config
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.files import first_line, parse_yaml, read_yaml, remove_leftovers
from m2ib_lightning.pairs.waiting import WAITING
from m2ib_lightning.run.counts import MEANS
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.run.journal import journals, recover
from m2ib_lightning.run.pages.side_files import forget_pairs
from m2ib_lightning.run.parts import read_counts, read_part, write_part
from m2ib_lightning.run.table import parts

_CHANGES_NO_RESULT = (
    *("output_dir", "resume", "retry_failed", "model.compile", "bottleneck.max_rows", "bottleneck.preset"),
    *("data.limit", "data.batch_size", "data.num_workers", "data.image_timeout", "output.", "trainer."),
    *("data.image_formats", "data.open_timeout", "data.allow_", "data.url_"),
    *("evaluate.pictures", "evaluate.resamples", "evaluate.baseline"),
    *("finetune.checkpoint_every", "finetune.maps", "finetune.prompt", "finetune.sampled"),
)
"""Keys, or beginnings of keys, that may differ between the launches of a run."""

_PRECISIONS = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}
"""Full names of Lightning's short names for precisions."""


def check_same_run(run: RunDirectory, resolved: str) -> None:
    """Check that a configuration gives the same rows as the configuration of an existing run.

    Args:
        run: the directory of the existing run.
        resolved: the new configuration, resolved, as YAML.

    Raises:
        M2IBError: if a key that changes results differs; the message names each key with both values.
    """
    old, new = _saved_values(run.config), _values(resolved, parse_yaml(resolved, "the new configuration"))
    differing = [key for key in sorted(old | new) if old.get(key) != new.get(key)]
    if differing:
        raise M2IBError(
            f"resume=true: {str(run.path)!r} holds a run of another configuration: "
            + "; ".join(f"{key} was {old.get(key)!r} and is now {new.get(key)!r}" for key in differing)
            + ". Give the old values (--config RUN/config.yaml does), or another output_dir."
        )


def _saved_values(path: Path) -> dict[str, Any]:
    """Return the values of a run's ``config.yaml``, which may be damaged."""
    advice = (
        "Put the configuration of the run there again (the same command with another output_dir writes one), or "
        "choose another output_dir"
    )
    try:
        saved, defaults = read_yaml(path), asdict(Config())
        groups = [name for name, value in defaults.items() if isinstance(value, dict)]
        broken = [name for name in groups if not isinstance(saved.get(name, {}), dict)]
        if broken:
            raise M2IBError(f"{path} is not the configuration of a run: {broken[0]} must be a group of keys")
        return _values(path.read_text(encoding="utf-8"), saved)
    except M2IBError as error:
        raise M2IBError(f"resume=true: {error}. {advice}") from None
    except (OSError, TypeError, ValueError) as error:
        raise M2IBError(
            f"resume=true: {path} is not the configuration of a run: {first_line(error)}. {advice}"
        ) from None


def _values(text: str, config: dict[str, Any]) -> dict[str, Any]:
    """Return the keys that change results and their values, with the precision and the hash of the statistics."""
    flat = dict(_flat(asdict(Config()))) | dict(_flat(config))  # defaults, for keys that are newer than the run
    head = text.split("\n", 1)[0]
    statistics = head.rpartition(": ")[2] if head.startswith("#") else None
    precision = str(flat.get("trainer.precision", "32"))
    changing = {key: value for key, value in flat.items() if not key.startswith(_CHANGES_NO_RESULT)}
    return changing | {"trainer.precision": _PRECISIONS.get(precision, precision), "statistics": statistics}


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def recover_parts(run: RunDirectory, retry_failed: bool, keys: Callable[[], Iterable[str]] | None = None) -> None:
    """Write parts from the journals of killed processes, and remove temporary files and failed rows to retry.

    Args:
        run: the run directory, in which no process is at work.
        retry_failed: whether to remove failed rows, so that their pairs are done again.
        keys: function that returns the keys of the pairs that the launch reaches; failed rows of other pairs stay. None
            for all pairs.
    """
    for journal in journals(run.table):
        recover(journal)
    for folder in (run.path, run.table, run.heatmaps, run.thumbnails):
        remove_leftovers(folder)
    for stale in run.table.glob(".part-*"):  # journals whose part exists
        stale.unlink(missing_ok=True)
    failed = [part for part in parts(run.table) if retry_failed and read_counts(part).failed]
    reached = None
    if failed and keys is not None:
        with WAITING:  # for a stream, which is read for its keys
            reached = pa.array(keys(), pa.string())
    for part in failed:
        _remove_failed(part, reached)


def remove_rows(run: RunDirectory, keys: Iterable[str]) -> None:
    """Remove the rows of some pairs from a table, and their pictures.

    The counts of a part lose the rows, their pictures and their means. What only the reading of a pair shows (a
    truncated caption, an animated image) stays counted.

    Args:
        run: the run directory, in which no process is at work and every journal is a part.
        keys: keys of the pairs.
    """
    removed = pa.array(keys, pa.string())
    for part in parts(run.table):
        table = read_part(part)
        chosen = pc.is_in(table["key"], value_set=removed)
        pairs = table.filter(chosen).select(["id", "key"])
        forget_pairs(run, zip(pairs["id"].to_pylist(), pairs["key"].to_pylist(), strict=True))
        for name in table.filter(chosen)["heatmap"].drop_null().to_pylist():
            (run.heatmaps / Path(name).name).unlink(missing_ok=True)
        _remove(part, table, chosen)


def _remove_failed(part: Path, reached: pa.Array | None) -> None:
    table = read_part(part)
    retried = pc.is_valid(table["error"])
    if reached is not None:
        retried = pc.and_(retried, pc.is_in(table["key"], value_set=reached))
    _remove(part, table, retried)


def _remove(part: Path, table: pa.Table, chosen: pa.ChunkedArray) -> None:
    """Write a part again without the chosen rows."""
    removed = table.filter(chosen)
    if removed.num_rows == table.num_rows:
        part.unlink()
    elif removed.num_rows:
        counts, failed = read_counts(part), removed.num_rows - removed["error"].null_count
        sums = tuple(
            total - (pc.sum(removed[name]).as_py() or 0.0 if name in removed.column_names else 0.0)
            for name, total in zip(MEANS, counts.sums, strict=True)
        )
        drawn = counts.drawn - (removed.num_rows - removed["heatmap"].null_count)
        done = counts.done - (removed.num_rows - failed)
        left = replace(counts, done=done, failed=counts.failed - failed, drawn=drawn, sums=sums)
        write_part(table.filter(pc.invert(chosen)), left, part)
