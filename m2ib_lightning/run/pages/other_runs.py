"""Other runs over the same pairs, whose maps stand beside those of a run on its page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.run.pages.page_rows import COLUMNS, page_record
from m2ib_lightning.run.pages.panels import panel_of
from m2ib_lightning.run.pages.run_facts import method_of
from m2ib_lightning.run.pages.run_report import PageRows
from m2ib_lightning.run.pages.side_files import read_facts
from m2ib_lightning.run.table import tables

_COLUMNS = (*COLUMNS, "fingerprint")


class OtherRuns:
    """The maps of other runs, by the keys of their pairs.

    Args:
        run: the run whose page is written.
        others: the other runs.

    Attributes:
        names: names of the run and of the others on the page: their methods, or their folders where methods repeat.

    Raises:
        M2IBError: if a part of a table is damaged.
    """

    def __init__(self, run: RunDirectory, others: Sequence[RunDirectory]) -> None:
        self.run = run
        self.others = list(others)
        self.names = _names([run, *others])
        self._panels = [_panels_of(other, name) for other, name in zip(self.others, self.names[1:], strict=True)]

    def rows(self) -> PageRows:
        """Return the rows of the run, each with the maps of the others."""
        return PageRows(_COLUMNS, record=self._record)

    def check(self) -> None:
        """Check that each other run explained the same pairs, or some of them.

        Raises:
            M2IBError: if one explained none of them, or if a pair of the same key has another caption or picture.
        """
        matched = [0] * len(self.others)
        for table in tables(self.run.table, ["key", "caption", "fingerprint"]):
            for row in table.to_pylist():
                for index, by_key in enumerate(self._panels):
                    if row["key"] in by_key:
                        matched[index] += 1
                        self._check_same(row, self.others[index], *by_key[row["key"]][:2])
        for other, count in zip(self.others, matched, strict=True):
            if not count:
                raise M2IBError(
                    f"{str(other.path)!r} explained none of the pairs of {str(self.run.path)!r}: they are matched by "
                    "their keys. Give runs over the same source (data.*)"
                )

    def _record(self, row: Mapping[str, Any]) -> dict[str, Any]:
        record = page_record(row)
        known = (by_key[row["key"]][2] for by_key in self._panels if row["key"] in by_key)
        panels = [panel for panel in known if panel is not None]
        return record | ({"panels": panels} if panels and "map" in record else {})

    def _check_same(self, row: Mapping[str, Any], other: RunDirectory, caption: str | None, fingerprint: str) -> None:
        differs = row["fingerprint"] and fingerprint and row["fingerprint"] != fingerprint
        if differs or (row["caption"] and caption and row["caption"] != caption):
            raise M2IBError(
                f"the pair {row['key']!r} of {str(self.run.path)!r} is another one in {str(other.path)!r}: its "
                f"{'caption' if row['caption'] != caption else 'picture'} differs. Give runs over the same source"
            )


def _names(runs: Sequence[RunDirectory]) -> list[str]:
    methods = [method_of(run) or run.path.name for run in runs]
    folders = [run.path.name for run in runs]
    repeated = {name for name, count in Counter(methods).items() if count > 1}
    names = [f"{m} ({f})" if m in repeated else m for m, f in zip(methods, folders, strict=True)]
    return names if len(set(names)) == len(names) else [f"{n} {k}" for k, n in enumerate(names, 1)]


def _panels_of(run: RunDirectory, name: str) -> dict[str, tuple[str | None, str, dict[str, Any] | None]]:
    """Return caption, fingerprint and panel of each pair by its key; a failed pair has no panel."""
    facts, found = read_facts(run), {}
    for table in tables(run.table, list(_COLUMNS)):
        for row in (row for batch in table.to_batches(max_chunksize=256) for row in batch.to_pylist()):
            record = page_record(row)
            hit = facts.get(row["key"], {}).get("hit")
            unit = "nats" if row.get("image_loss") else ""
            panel = panel_of(name, record, unit=unit, hit=hit) if "map" in record else None
            found[row["key"]] = row["caption"], row["fingerprint"] or "", panel
    return found


def opened(path: Path) -> RunDirectory:
    """Return the run directory of another run.

    Raises:
        M2IBError: if the folder is not a run of ``task=attribute`` or ``ground``.
    """
    if not (path / "attributions").is_dir():
        raise M2IBError(
            f"{str(path)!r} has no maps to lay beside others: it must be a run directory of task=attribute or ground, "
            "with a folder 'attributions'"
        )
    return RunDirectory(path.resolve())
