"""``task=ground``: explain the units of each caption too, and write the run directory."""

from __future__ import annotations

from m2ib_lightning.config import Config
from m2ib_lightning.tasks.attribute import Attribute
from m2ib_lightning.tasks.over_pairs import run_over_pairs


class Ground(Attribute):
    """Task that explains each pair, and each unit of its caption, with one attribution method.

    The data module's preparer finds the units (``Work.prepare``), and every method explains those of its batch.
    """

    activity = "Grounding"


def ground(config: Config) -> int:
    """Ground every pair of the data source, or this rank's share of them; return the exit status."""
    return run_over_pairs(config, Ground())
