"""Opening a source listens to stop signals, and to a time limit."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from m2ib_lightning.datamodules import captions
from m2ib_lightning.datamodules.captions import CaptionsDataModule
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.pairs.waiting import SIGNALS, Stopped
from m2ib_lightning.run.sharding import StopSignals


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Tables and shards whose opening never ends."""
    over, begun = threading.Event(), threading.Event()

    def open_(*_: Any) -> None:
        begun.set()
        over.wait(60)

    monkeypatch.setattr(captions, "open_table", open_)
    monkeypatch.setattr(captions, "open_shards", open_)
    yield begun
    over.set()


@pytest.mark.parametrize("path", ["pairs.csv", "shards.tar", "someone/pairs"])
def test_opening_has_a_time_limit(path: str, endless: threading.Event) -> None:
    datamodule = CaptionsDataModule(None, path, open_timeout=0.05)  # type: ignore[arg-type]  # no pair is prepared
    with pytest.raises(M2IBError, match=r"was still being opened after 0\.05 s \(data\.open_timeout\)"):
        datamodule.setup("fit")


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("path", ["pairs.csv", "shards.tar"])
def test_a_stop_signal_ends_the_opening(number: signal.Signals, path: str, endless: threading.Event) -> None:
    def stop() -> None:
        endless.wait(60)
        os.kill(os.getpid(), number)

    with StopSignals().watching():
        thread = threading.Thread(target=stop)
        thread.start()
        with pytest.raises(Stopped) as raised:
            CaptionsDataModule(None, path).setup("fit")  # type: ignore[arg-type]
        thread.join()
    assert raised.value.code == 128 + number


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_time_limit_must_be_positive(seconds: float, tmp_path: Path) -> None:
    with pytest.raises(M2IBError, match=r"data\.open_timeout must be a number of seconds above 0"):
        CaptionsDataModule(None, tmp_path, open_timeout=seconds)  # type: ignore[arg-type]
