"""Writes the page of a run again: report.html, with all its pairs.

    m2ib-fit report RUN
    m2ib-fit report RUN --pairs 1000
    m2ib-fit report RUN OTHER

The run may be unfinished, killed, or still at work: the page has the pairs that are in its table now. Above 20,000
pairs there are several pages, report-2.html and so on. Missing thumbnails are made from the picture files, where they
are still there, unless the run was told to draw nothing (output.heatmaps=0). A run of task=evaluate gets its comparison
again, and one of task=finetune its curves.

The maps of OTHER runs over the same pairs stand beside those of RUN. Pairs are matched by their keys.
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
    from m2ib_lightning.run.summary import Summary


def main(words: Sequence[str]) -> int:
    """Run the command; return its exit status.

    Raises:
        M2IBError: if an argument is wrong, the folder is not a run, or the pairs of other runs differ.
    """
    parser = CommandParser("report", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument("others", type=Path, nargs="*", metavar="OTHER", help="other runs over the same pairs")
    parser.add_argument("--pairs", type=int, metavar="N", help="the first N pairs of the table; default: all")
    parser.add_argument(
        "--thumbnails",
        action=argparse.BooleanOptionalAction,
        help="make missing thumbnails from the picture files; default: unless the run has output.heatmaps=0",
    )
    arguments = parser.parse(words)
    if arguments.pairs is not None and arguments.pairs < 1:
        raise M2IBError(f"--pairs must be at least 1, got {arguments.pairs}")
    for page in _write(arguments.run.expanduser(), [path.expanduser() for path in arguments.others], arguments):
        print(f"page         {page}")
    return 0


def _write(path: Path, others: Sequence[Path], arguments: argparse.Namespace) -> list[Path]:
    from m2ib_lightning.run.directory import RunDirectory

    if (path / "attributions").is_dir():
        run = RunDirectory(path.resolve())
        make = _draws(run) if arguments.thumbnails is None else arguments.thumbnails
        return _write_pairs(run, others, arguments.pairs, make)
    if others:
        raise M2IBError(
            f"{str(path)!r} has no maps to lay others beside: RUN must be a run directory of task=attribute or ground "
            "where OTHER is given. The page of task=evaluate has the maps of its methods side by side"
        )
    if (path / "scores").is_dir():
        return _write_comparison(RunDirectory(path.resolve(), "scores"), arguments.pairs)
    return _write_whole(RunDirectory(path.resolve()))


def _write_pairs(run: RunDirectory, others: Sequence[Path], most: int | None, make: bool) -> list[Path]:
    from m2ib_lightning.run.pages.other_runs import OtherRuns, opened
    from m2ib_lightning.run.pages.run_report import write_report

    if not others:
        return write_report(run, _summary(run), most=most, make=make)
    beside = OtherRuns(run, [opened(other) for other in others])
    beside.check()
    head = {"own": beside.names[0], "method": ", ".join(beside.names)}
    return write_report(run, _summary(run), most=most, make=make, rows=beside.rows(), head=head)


def _write_comparison(run: RunDirectory, most: int | None) -> list[Path]:
    from m2ib_lightning.tasks.evaluate import rewrite_page

    return rewrite_page(run, _summary(run), read_yaml(run.config), most)


def _write_whole(run: RunDirectory) -> list[Path]:
    """Write the page of a training; that of ``task=tune`` can't be made again."""
    if (run.path / "training.json").is_file():
        from m2ib_lightning.finetuning.training_page import write_training_page

        return [write_training_page(run)]
    task = read_yaml(run.config).get("task") if run.config.is_file() else None
    if task == "tune" and run.report.is_file():
        return [run.report]
    if task == "tune":
        raise M2IBError(f"{str(run.path)!r} has no report.html: task=tune writes it at its end, and has not finished")
    raise M2IBError(
        f"{str(run.path)!r} is no run directory: it has neither a folder 'attributions' (task=attribute or ground) or "
        "'scores' (task=evaluate), nor training.json (task=finetune)"
    )


def _summary(run: RunDirectory) -> Summary:
    from m2ib_lightning.run.sharding.launch import last_launch_of
    from m2ib_lightning.run.summary import summarise

    return summarise(run, last_launch_of(run.launches))


def _draws(run: RunDirectory) -> bool:
    """Whether the run was allowed to write pictures."""
    output = read_yaml(run.config).get("output") if run.config.is_file() else None
    return not isinstance(output, dict) or output.get("heatmaps") != 0
