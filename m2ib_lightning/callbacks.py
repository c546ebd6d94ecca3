"""Public path of the callbacks that write results; subclass ``ResultsCallback`` for your own."""

from m2ib_lightning.run.callbacks import CurveLogger, HeatmapWriter, PairProgressBar, ResultsCallback, TableWriter

__all__ = ["CurveLogger", "HeatmapWriter", "PairProgressBar", "ResultsCallback", "TableWriter"]
