"""Shows where the tables of two runs differ.

    m2ib-fit diff RUN OTHER
    m2ib-fit diff RUN OTHER --tolerance 1e-3

Prints one line per difference. The exit status is 0 if there is none, 1 if there are some, 2 if a run can't be read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from m2ib_lightning.errors import M2IBError, escaped
from m2ib_lightning.run.differences import differences
from m2ib_lightning.tasks.commands.command_parser import CommandParser


def main(words: Sequence[str]) -> int:
    """Run the command; return its exit status.

    Raises:
        M2IBError: if an argument is wrong, or a run directory can't be read.
    """
    parser = CommandParser("diff", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory of task=attribute")
    parser.add_argument("other", type=Path, metavar="OTHER", help="the run directory to compare with")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="for numbers; default: %(default)s")
    arguments = parser.parse(words)
    if not (math.isfinite(arguments.tolerance) and arguments.tolerance >= 0):
        raise M2IBError(f"--tolerance must be a number of at least 0, got {arguments.tolerance}")
    lines = differences(arguments.run, arguments.other, arguments.tolerance)
    for line in lines:
        print(escaped(line))
    return 1 if lines else 0
