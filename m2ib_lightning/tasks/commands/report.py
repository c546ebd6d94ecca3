"""Writes the page of a run again: report.html, with all its pairs.

    m2ib-fit report RUN
    m2ib-fit report RUN --pairs 1000

The run may be unfinished, killed, or still at work: the page has the pairs that are in its table now. Above 20,000
pairs there are several pages, report-2.html and so on. Missing thumbnails are made from the picture files, where they
are still there, unless the run was told to draw nothing (output.heatmaps=0). A run of task=evaluate gets its comparison
again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.files import read_yaml
from m2ib_lightning.tasks.commands.command_parser import CommandParser

if TYPE_CHECKING:
    from m2ib_lightning.run.directory import RunDirectory


def main(words: Sequence[str]) -> int:
    """Run the command; return its exit status.

    Raises:
        M2IBError: if an argument is wrong, or the folder is not a run over pairs.
    """
    parser = CommandParser("report", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory of task=attribute, ground or evaluate")
    parser.add_argument("--pairs", type=int, metavar="N", help="the first N pairs of the table; default: all")
    parser.add_argument(
        "--thumbnails",
        action=argparse.BooleanOptionalAction,
        help="make missing thumbnails from the picture files; default: unless the run has output.heatmaps=0",
    )
    arguments = parser.parse(words)
    if arguments.pairs is not None and arguments.pairs < 1:
        raise M2IBError(f"--pairs must be at least 1, got {arguments.pairs}")
    for page in _write(_opened(arguments.run.expanduser()), arguments.pairs, arguments.thumbnails):
        print(f"page         {page}")
    return 0


def _opened(path: Path) -> RunDirectory:
    from m2ib_lightning.run.directory import RunDirectory

    for name in ("attributions", "scores"):
        if (path / name).is_dir():
            return RunDirectory(path.resolve(), name)
    raise M2IBError(
        f"{str(path)!r} is no run directory of task=attribute, ground or evaluate: it has no folder 'attributions' or "
        "'scores'"
    )


def _write(run: RunDirectory, most: int | None, make: bool | None) -> list[Path]:
    from m2ib_lightning.run.pages.run_report import write_report
    from m2ib_lightning.run.sharding.launch import last_launch_of
    from m2ib_lightning.run.summary import summarise

    summary = summarise(run, last_launch_of(run.launches))
    if run.table_name == "attributions":
        return write_report(run, summary, most=most, make=_draws(run) if make is None else make)
    from m2ib_lightning.tasks.evaluate import rewrite_page

    return rewrite_page(run, summary, read_yaml(run.config), most)


def _draws(run: RunDirectory) -> bool:
    """Whether the run was allowed to write pictures."""
    output = read_yaml(run.config).get("output") if run.config.is_file() else None
    return not isinstance(output, dict) or output.get("heatmaps") != 0
