"""When memory runs out: how to know, and what to tell."""

from __future__ import annotations

import torch

_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "STATUS_ALLOC_FAILED", "std::bad_alloc")
"""As devices, torch on a CPU (Linux, Windows), cuBLAS and cuDNN, and C++ say it."""

REPEATED = (
    "out of memory: the batch is repeated with less at a time (fewer draws; if that is not enough, single pairs). "
    "Results do not change; a smaller batch size or max_rows saves the time of the failed attempts."
)

DOES_NOT_FIT = (
    "out of memory, with this pair alone and as few draws at a time as can be: use a smaller model, a lower precision "
    "(trainer.precision=bf16-mixed) or a device with more memory, and see whether other processes hold some of it"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller attempt might succeed.

    >>> is_out_of_memory(RuntimeError("CUDA error: out of memory")), is_out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):  # the latter is any device's
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
