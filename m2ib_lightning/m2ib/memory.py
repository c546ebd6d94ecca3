"""Settings of the C library's allocator, which gives CPU tensors their memory."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_THRESHOLD = 2**30  # 1 GiB
_OLDER_THRESHOLD = 2**25  # 32 MiB, the largest that an older glibc accepts


def keep_freed_memory() -> None:
    """Make glibc keep up to 1 GiB of freed memory for the next tensor instead of returning it to the kernel.

    By default every large tensor gets fresh memory, which the kernel clears page by page. That costs a few per cent of
    the loop's time. The function does nothing without glibc, or if the user has set ``MALLOC_TRIM_THRESHOLD_`` or
    ``MALLOC_MMAP_THRESHOLD_``.
    """
    if sys.platform != "linux" or {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & set(os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # A trim threshold without an mmap threshold would freeze the mmap threshold at its present value.
    if mallopt is not None and any(mallopt(_MMAP_THRESHOLD, size) for size in (_THRESHOLD, _OLDER_THRESHOLD)):
        mallopt(_TRIM_THRESHOLD, _THRESHOLD)
