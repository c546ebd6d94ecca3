"""Public import path of the callbacks that write results. A callback of your own subclasses ``ResultsCallback``."""

from m2ib_lightning.run.callbacks import CurveLogger, HeatmapWriter, PairProgressBar, ResultsCallback, TableWriter

__all__ = ["CurveLogger", "HeatmapWriter", "PairProgressBar", "ResultsCallback", "TableWriter"]
