"""Estimates the time, files and bytes of a long run from a short one.

    m2ib-fit data.limit=500 output_dir=pilot ...        # on the devices that will do the work
    m2ib-fit plan pilot --pairs 10_000_000 --ranks 64

Ranks share nothing while they work. The rate therefore grows with their number, as long as the file system and the
processes that decode images keep up. Loading the model and reading what is done already are not included.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from m2ib_lightning.run.planning import plan_run
from m2ib_lightning.tasks.commands.command_parser import CommandParser


def main(words: Sequence[str]) -> int:
    """Run the command; return its exit status.

    Raises:
        M2IBError: if an argument is wrong, or the pilot can't be read.
    """
    parser = CommandParser("plan", __doc__)
    parser.add_argument("pilot", type=Path, metavar="RUN", help="the run directory of a short run")
    parser.add_argument("--pairs", type=int, required=True, help="pairs of the long run")
    parser.add_argument("--ranks", type=int, default=1, help="ranks of the long run; default: %(default)s")
    parser.add_argument("--rate", type=float, help="pairs per second of one rank, in place of the pilot's")
    arguments = parser.parse(words)
    plan = plan_run(arguments.pilot, arguments.pairs, arguments.ranks, arguments.rate)
    for name, value in plan.items():
        print(f"{name:>24}  {value:,.0f}" if value >= 100 else f"{name:>24}  {value:.2f}")
    return 0
