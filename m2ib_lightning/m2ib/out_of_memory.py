"""Out-of-memory errors: how to recognise one, and the messages for the user."""

from __future__ import annotations

import torch

_SIGNS = (
    "out of memory",
    "can't allocate memory",
    "Cannot allocate memory",
    "not enough memory",
    "STATUS_ALLOC_FAILED",
    "std::bad_alloc",
)
"""Parts of the error messages of devices, of torch on a CPU (Linux, Windows), of cuBLAS and cuDNN, and of C++."""

REPEATED = (
    "out of memory: the batch is repeated with smaller chunks (fewer draws at a time, then single pairs). "
    "Results do not change; a smaller batch size or max_rows saves the time of the failed attempts."
)

DOES_NOT_FIT = (
    "out of memory, with this pair alone and the smallest chunks: use a smaller model, a lower precision "
    "(trainer.precision=bf16-mixed) or a device with more memory, and check whether other processes hold some of it"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out. A smaller attempt might then succeed.

    >>> is_out_of_memory(RuntimeError("CUDA error: out of memory")), is_out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):  # despite its name, raised on every device
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
