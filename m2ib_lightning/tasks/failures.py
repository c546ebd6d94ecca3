"""Failures of the machine, a full disk or too little memory, as errors with a message instead of a traceback."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.files import first_line
from m2ib_lightning.m2ib.out_of_memory import is_out_of_memory

_RUST = "(os error "
"""Part of the messages of tokenizers and safetensors, whose errors for a failed write are of types of their own."""


@contextmanager
def explained_failures(kept: str | None) -> Iterator[None]:
    """Context that turns a failed read or write, and memory that runs out, into an ``M2IBError``.

    Args:
        kept: what is kept of the run, as the subject of "is kept" or "are kept"; None for a task without ``resume``.
    """
    again = "Then start the command again, with another output_dir"
    if kept is not None:
        again = f"{kept} kept; with resume=true and this output_dir the command does the rest"
    try:
        yield
    except BrokenPipeError:  # the reader of the output has ended
        raise
    except Exception as error:
        if is_out_of_memory(error) or getattr(error, "errno", None) == errno.ENOMEM:
            raise M2IBError(
                f"out of memory ({first_line(error)}): use a smaller data.batch_size, a smaller model or a device with "
                f"more memory, and check whether other processes hold some of it. {again}"
            ) from error
        if not (isinstance(error, OSError) or _RUST in str(error)):
            raise
        raise M2IBError(f"reading or writing failed: {error}. {again}") from error
