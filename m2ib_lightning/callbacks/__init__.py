"""All I/O of a run: the module returns results, and each callback writes one thing."""

from m2ib_lightning.callbacks.base import ResultsCallback
from m2ib_lightning.callbacks.curves import CurveLogger
from m2ib_lightning.callbacks.heatmaps import HeatmapWriter
from m2ib_lightning.callbacks.progress import PairProgressBar
from m2ib_lightning.callbacks.table import TableWriter

__all__ = [
    "CurveLogger",
    "HeatmapWriter",
    "PairProgressBar",
    "ResultsCallback",
    "TableWriter",
]
