"""How the C library treats the memory of tensors on a CPU."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_KEPT, _OLD_LIMIT = 2**30, 2**25


def keep_freed_memory() -> None:
    """Ask glibc to keep freed memory for the next tensor, up to 1 GiB, in place of giving it back to the kernel.

    By default every large tensor is fresh memory, and the kernel clears it page by page when it is written: some per
    cent of the loop's time. Does nothing where there is no glibc, or where ``MALLOC_TRIM_THRESHOLD_`` or
    ``MALLOC_MMAP_THRESHOLD_`` says what the user wants.
    """
    if sys.platform != "linux" or {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & set(os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # An older glibc refuses the large threshold, and a trim threshold alone would freeze the other where it is.
    if mallopt is not None and (mallopt(_MMAP_THRESHOLD, _KEPT) or mallopt(_MMAP_THRESHOLD, _OLD_LIMIT)):
        mallopt(_TRIM_THRESHOLD, _KEPT)
