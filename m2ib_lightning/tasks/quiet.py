"""Less noise on the terminal from Lightning, Pillow and writer threads."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from m2ib_lightning.errors import escaped


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Context that silences Lightning's advice on training loops and Pillow's warning about large images.

    A writer thread that fails, such as TensorBoard's on a full disk, prints one line instead of a traceback.
    """
    hook = threading.excepthook

    def print_a_line(failure: threading.ExceptHookArgs) -> None:
        if isinstance(failure.exc_value, OSError):
            print(escaped(f"a writer stopped: {failure.exc_value}"), file=sys.stderr)
        else:
            hook(failure)

    threading.excepthook = print_a_line
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        # an image that is too large becomes a failed row
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        try:
            yield
        finally:
            logger.setLevel(level)
            threading.excepthook = hook
