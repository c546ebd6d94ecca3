"""Callbacks that do all I/O of a run: the module returns results, and each callback writes one kind of output."""

from m2ib_lightning.run.callbacks.curve_logger import CurveLogger
from m2ib_lightning.run.callbacks.forming_logger import FormingLogger
from m2ib_lightning.run.callbacks.gate_logger import GateLogger
from m2ib_lightning.run.callbacks.heatmap_writer import HeatmapWriter
from m2ib_lightning.run.callbacks.progress_bar import PairProgressBar
from m2ib_lightning.run.callbacks.progress_lines import PairProgressLines, StepProgressLines
from m2ib_lightning.run.callbacks.results_callback import ResultsCallback
from m2ib_lightning.run.callbacks.table_writer import TableWriter
from m2ib_lightning.run.callbacks.thumbnail_writer import ThumbnailWriter

__all__ = [
    "CurveLogger",
    "FormingLogger",
    "GateLogger",
    "HeatmapWriter",
    "PairProgressBar",
    "PairProgressLines",
    "ResultsCallback",
    "StepProgressLines",
    "TableWriter",
    "ThumbnailWriter",
]
