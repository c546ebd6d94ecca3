"""The process that answers: it is asked, stopped when it is slow, and replaced when it ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from m2ib_lightning.app.question import Question
from m2ib_lightning.app.worker_process import Worker, _reason
from m2ib_lightning.errors import M2IBError
from tests.app.slow_answers import make


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(make, (), seconds=2)
    yield worker
    worker.close()


@pytest.mark.slow
def test_a_process_is_stopped_when_it_is_slow_and_replaced(worker: Worker) -> None:
    assert worker.methods == ["m2ib", "other"]
    first = worker.ask(Question(b"x", "hello"))
    assert worker.ask(Question(b"x", "hello")) == first
    with pytest.raises(M2IBError, match="there is no model 'missing'"):
        worker.ask(Question(b"x", "hello", model="missing"))
    with pytest.raises(
        M2IBError, match=r"could not be answered \(ValueError\); the terminal has the details"
    ) as raised:
        worker.ask(Question(b"x", "fail"))
    assert "secret" not in str(raised.value)
    assert worker.ask(Question(b"x", "hello")) == first
    with pytest.raises(M2IBError, match=r"took longer than 2 s, which is the limit: choose a faster method"):
        worker.ask(Question(b"x", "sleep"))
    second = worker.ask(Question(b"x", "hello"))
    assert second.startswith("hello by ")
    assert second != first
    with pytest.raises(M2IBError, match="has ended, perhaps for want of memory: it was started again"):
        worker.ask(Question(b"x", "end"))
    assert worker.ask(Question(b"x", "hello")) not in (first, second)


def test_a_process_that_can_not_start_says_why() -> None:
    worker = Worker(make, ("there is no model 'x'",), seconds=1)
    with pytest.raises(M2IBError, match="there is no model 'x'"):
        _ = worker.methods
    worker.close()


def test_the_terminal_has_the_details_of_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert "secret" not in _reason(ValueError("a secret of the machine"))
    assert "ValueError: a secret of the machine" in capsys.readouterr().err
    assert _reason(M2IBError("the caption is empty")) == "the caption is empty"
    assert capsys.readouterr().err == ""
