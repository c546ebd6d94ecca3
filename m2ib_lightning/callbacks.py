"""What writes results: ``ResultsCallback`` for one of your own, and those that a run has."""

from m2ib_lightning.run.callbacks import CurveLogger, HeatmapWriter, PairProgressBar, ResultsCallback, TableWriter

__all__ = ["CurveLogger", "HeatmapWriter", "PairProgressBar", "ResultsCallback", "TableWriter"]
