"""Less noise on the terminal."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without Lightning's advice on training loops, which this is not, nor Pillow's on large images.

    A thread that can't write (TensorBoard's, when the disk is full) says so in a line, not in a traceback.
    """
    hook = threading.excepthook

    def in_a_line(failure: threading.ExceptHookArgs) -> None:
        if isinstance(failure.exc_value, OSError):
            print(f"a writer stopped: {failure.exc_value}", file=sys.stderr)
        else:
            hook(failure)

    threading.excepthook = in_a_line
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # what is too large is an error row
        try:
            yield
        finally:
            logger.setLevel(level)
            threading.excepthook = hook
