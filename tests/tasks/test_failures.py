"""A full disk and memory that runs out are errors with a message, whatever library reports them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from m2ib_lightning import M2IBError
from m2ib_lightning.scenes.tokenizer import build_tokenizer
from m2ib_lightning.tasks.failures import explained_failures
from tests.run.test_files import full_disk

FULL: dict[str, Callable[[Path], object]] = {
    "Python": lambda path: path.write_bytes(bytes(5000)),
    "numpy": lambda path: np.save(path, np.zeros(5000)),
    "safetensors": lambda path: save_file({"a": torch.zeros(5000)}, path),
    "tokenizers": lambda path: build_tokenizer().backend_tokenizer.save(str(path)),
}


@pytest.mark.parametrize("library", FULL)
def test_a_full_disk(library: str, tmp_path: Path) -> None:
    message = r"reading or writing failed: .*\. The rows are kept; with resume=true"
    with pytest.raises(M2IBError, match=message), full_disk(), explained_failures("The rows are"):
        FULL[library](tmp_path / "file")


TOO_LARGE: dict[str, Callable[[], object]] = {
    "Python": lambda: bytearray(2**62),
    "numpy": lambda: np.zeros(2**58),
    "torch": lambda: torch.zeros(2**58),
}


@pytest.mark.parametrize("library", TOO_LARGE)
def test_no_memory(library: str) -> None:
    message = r"out of memory \(.*\): use a smaller data.batch_size"
    with pytest.raises(M2IBError, match=message), explained_failures("The rows are"):
        TOO_LARGE[library]()


@pytest.mark.parametrize("error", [ValueError("a bug"), M2IBError("a typo"), BrokenPipeError(), RuntimeError("shapes")])
def test_other_errors_stay_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, explained_failures("The rows are"):
        raise error
    assert caught.value is error
