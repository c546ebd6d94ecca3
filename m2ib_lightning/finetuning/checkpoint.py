"""Checkpoints of a fine-tuning: only the weights that are trained, and the bottlenecks' priors, in atomic files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn
from typing_extensions import override

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.files import atomic_write

_ENTRIES = {
    "state_dict": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "loops": dict,
    "callbacks": dict,
    "epoch": int,
    "global_step": int,
    "pytorch-lightning_version": str,
}
"""Entries that every checkpoint of Lightning has, each with its type."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's plugin for checkpoints, with atomic writes.

    Lightning writes a checkpoint into the folder of temporary files and moves it over the older one. Across file
    systems the move is a copy, which a kill or a full disk leaves torn. Here the older checkpoint stays until the new
    one is synced beside it.
    """

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(Path(path)) as file:
            remembering: Any = _RememberingFile(file)
            try:
                torch.save(checkpoint, remembering)
            except RuntimeError as error:  # what torch makes of a failed write
                raise remembering.failure or error from None


class _RememberingFile:
    """A file that remembers why a write to it failed, which torch does not say."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.failure: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        self.file.flush()


class LastCheckpoint(ModelCheckpoint):
    """Callback that keeps one file, the last checkpoint.

    It takes no state from a checkpoint: the state is paths of files that Lightning removes later.

    Args:
        folder: folder of the checkpoint.
        when: arguments of ``ModelCheckpoint`` that say when to write it.
    """

    def __init__(self, folder: Path, **when: Any) -> None:
        super().__init__(folder, save_last=True, save_top_k=0, enable_version_counter=False, **when)

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Leave this callback as it is."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint, whose tensors stay on disk until they are used. It runs no code of the file.

    Raises:
        M2IBError: if the file is torn, or is not a checkpoint of a fine-tuning.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise unusable(path, str(error)) from error
    except Exception as error:  # a damaged file raises anything; torch's advice for it is to run the file's code
        raise unusable(path, f"it is torn, or not a checkpoint ({type(error).__name__})") from error
    if not isinstance(checkpoint, dict):
        raise unusable(path, f"it holds a {type(checkpoint).__name__} instead of a checkpoint's entries")
    for name, kind in _ENTRIES.items():
        if not isinstance(checkpoint.get(name), kind):
            raise unusable(path, f"its entry {name!r} is missing or not of type {kind.__name__}")
    if not all(isinstance(value, torch.Tensor) for value in checkpoint["state_dict"].values()):
        raise unusable(path, "its 'state_dict' holds something that is not a tensor")
    return checkpoint


def unusable(path: Path | str, reason: str) -> M2IBError:
    """Return the error for a checkpoint that a training can't resume from."""
    return M2IBError(
        f"the training can't be resumed from {path}: {reason}. Put a good copy of the file there; or remove it, and "
        "resume=true starts the training again from the beginning"
    )


def drop_frozen(module: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Remove every frozen weight from the checkpoint's ``state_dict``.

    Args:
        module: the module that the checkpoint is of.
        checkpoint: the checkpoint, changed in place.
    """
    names = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    names |= {name for name, _ in module.named_buffers() if ".bottlenecks." in f".{name}"}
    checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in names}


def check_checkpoint(module: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Check that a checkpoint has every trained weight of a module, in its shape.

    Raises:
        M2IBError: if a weight is missing or has another shape; the message names the first one.
    """
    if "state_dict" not in checkpoint:  # the strategy of sharded weights has loaded and removed it
        return
    expected = {name: parameter.shape for name, parameter in module.named_parameters() if parameter.requires_grad}
    shapes = {name: value.shape for name, value in checkpoint["state_dict"].items()}
    wrong = [name for name, shape in expected.items() if shapes.get(name) != shape]
    if wrong:
        raise M2IBError(
            f"the checkpoint is of another model or another finetune.train: {wrong[0]} is {shapes.get(wrong[0])} in "
            f"it and {tuple(expected[wrong[0]])} here"
        )
