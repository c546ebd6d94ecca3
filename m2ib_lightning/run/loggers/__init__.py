"""The loggers of a run: which there are, what they are given, and what they call it."""

from m2ib_lightning.run.loggers.final_values import log_final_values
from m2ib_lightning.run.loggers.logged_media import (
    log_histogram,
    log_picture,
    log_text,
    shows_histograms,
    shows_pictures,
)
from m2ib_lightning.run.loggers.logger_choice import curve_places, logger_names, make_loggers
from m2ib_lightning.run.loggers.tensorboard_layout import Layout, LayoutWriter

__all__ = [
    "Layout",
    "LayoutWriter",
    "curve_places",
    "log_final_values",
    "log_histogram",
    "log_picture",
    "log_text",
    "logger_names",
    "make_loggers",
    "shows_histograms",
    "shows_pictures",
]
