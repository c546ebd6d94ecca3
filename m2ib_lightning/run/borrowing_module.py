"""Base class of modules that borrow a model during ``fit`` and return it unchanged."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack

from lightning import Callback, LightningModule, Trainer
from typing_extensions import override


class BorrowingModule(LightningModule):
    """LightningModule with manual optimisation that borrows a model from the start of ``fit`` to its end.

    The model is not a submodule, so no checkpoint holds it. Subclasses implement ``borrow`` and a ``training_step``
    that returns ``{"results": [...]}``. Callbacks write the results.
    """

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self._loan = ExitStack()

    def borrow(self) -> AbstractContextManager[None]:
        """Return the context in which the model is frozen and batches are processed."""
        raise NotImplementedError

    @override
    def configure_callbacks(self) -> list[Callback]:
        return [ReturnModel()]

    @override
    def on_fit_start(self) -> None:
        self._loan.enter_context(self.borrow())

    def return_model(self) -> None:
        """Exit the context of ``borrow``, which restores the model."""
        self._loan.close()


class ReturnModel(Callback):
    """Callback that returns the borrowed model at the end of ``fit``, also after an exception or Ctrl-C."""

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _return_model(pl_module)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        _return_model(pl_module)


def _return_model(module: LightningModule) -> None:
    assert isinstance(module, BorrowingModule)
    module.return_model()
