"""A process that answers questions, one at a time, and is killed when an answer takes too long.

A thread can't be stopped. A process can, and its memory is then free again.
"""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from threading import Lock
from typing import Any, NoReturn, Protocol

from m2ib_lightning.app.question import Question
from m2ib_lightning.errors import M2IBError

LOADING_SECONDS = 900.0
"""Time limit for the start of the process and for loading a model, which may have to be downloaded."""


class Answers(Protocol):
    """What works in the process."""

    @property
    def methods(self) -> Sequence[str]:
        """Names of the attribution methods."""

    def load(self, name: str, /) -> Any:
        """Load a model."""

    def answer(self, question: Question, /) -> str:
        """Answer a question as HTML."""


class Worker:
    """Starts the process, asks it, and replaces it when it fails.

    Args:
        make: makes what answers; it is called in the process, so it must be a function of a module.
        arguments: arguments of ``make``.
        seconds: time limit of an answer.
    """

    def __init__(self, make: Callable[..., Answers], arguments: Sequence[Any], seconds: float) -> None:
        self.seconds = seconds
        self._start_arguments = (make, tuple(arguments))
        self._lock = Lock()
        self._methods: list[str] = []
        self._start()

    def _start(self) -> None:
        context = get_context("spawn")  # a fork of a process with threads may hang
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_work, args=(other, *self._start_arguments), daemon=True)
        self._process.start()
        other.close()
        self._ready = False

    @property
    def methods(self) -> list[str]:
        """Names of the attribution methods; waits until the process is ready.

        Raises:
            M2IBError: if the process could not start.
        """
        with self._lock:
            self._wait_until_ready()
            return self._methods

    def ask(self, question: Question) -> str:
        """Return the answer to a question as HTML.

        Raises:
            M2IBError: if the question can't be answered, or takes longer than the limit.
        """
        with self._lock:
            self._wait_until_ready()
            self._send(question)
            self._receive(LOADING_SECONDS, "loading the model")
            answer: str = self._receive(self.seconds, "the answer")
            return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _wait_until_ready(self) -> None:
        if not self._process.is_alive():
            self._restart()
        if not self._ready:
            self._methods = list(self._receive(LOADING_SECONDS, "the start"))
            self._ready = True

    def _restart(self) -> None:
        self.close()
        self._start()

    def _send(self, question: Question) -> None:
        try:
            self._connection.send(question)
        except OSError:
            self._lost()

    def _receive(self, seconds: float, what: str) -> Any:
        """Return what the process sends next, or raise what went wrong there."""
        try:
            if not self._connection.poll(seconds):
                self._restart()
                raise M2IBError(
                    f"{what} took longer than {seconds:g} s, which is the limit: choose a faster method, fewer units "
                    "or a smaller model, or raise --seconds"
                )
            kind, content = self._connection.recv()
        except (EOFError, OSError):
            self._lost()
        if kind == "error":
            raise M2IBError(content)
        return content

    def _lost(self) -> NoReturn:
        self._restart()
        raise M2IBError("the process that explains has ended, perhaps for want of memory: it was started again")


def _work(connection: Connection, make: Callable[..., Answers], arguments: tuple[Any, ...]) -> None:
    """Answer questions until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the other process's to handle
    try:
        answers = make(*arguments)
        connection.send(("ready", list(answers.methods)))
    except Exception as error:
        connection.send(("error", _reason(error)))
        return
    while True:
        try:
            question: Question = connection.recv()
        except (EOFError, OSError):
            return
        try:
            answers.load(question.model)
            connection.send(("loaded", None))
            connection.send(("answer", answers.answer(question)))
        except Exception as error:
            connection.send(("error", _reason(error)))


def _reason(error: Exception) -> str:
    """The message of an error that a visitor may read; the details of others go to the terminal."""
    if isinstance(error, M2IBError):
        return str(error)
    traceback.print_exception(error, file=sys.stderr)
    return f"the question could not be answered ({type(error).__name__}); the terminal has the details"
