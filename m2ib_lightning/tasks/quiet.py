"""Less noise on the terminal from Lightning, Pillow and writer threads."""

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
    """Silence, inside, Lightning's advice on training loops and Pillow's warning about large images.

    A writer thread that fails, such as TensorBoard's on a full disk, prints a line in place of a traceback.
    """
    hook = threading.excepthook

    def print_a_line(failure: threading.ExceptHookArgs) -> None:
        if isinstance(failure.exc_value, OSError):
            print(f"a writer stopped: {failure.exc_value}", file=sys.stderr)
        else:
            hook(failure)

    threading.excepthook = print_a_line
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings(
            "ignore", category=Image.DecompressionBombWarning
        )  # an image that is too large is an error row
        try:
            yield
        finally:
            logger.setLevel(level)
            threading.excepthook = hook
