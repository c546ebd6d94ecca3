"""A signal ends a run that waits for data before the data come, and the finished rows are kept."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from m2ib_lightning import load_attributions
from m2ib_lightning.cli import main
from m2ib_lightning.datamodules import stream_loading
from m2ib_lightning.datamodules.scenes import SceneSource
from m2ib_lightning.pairs.waiting import WAITING, Stopped
from m2ib_lightning.run.sharding import StopSignals
from tests.datamodules.test_streaming import write_tars
from tests.folders import save_clip_folder
from tests.run.test_sharding import finish, start, wait_for_rows

QUICK = [
    *("bottleneck.steps=2", "bottleneck.noise_samples=2", "output.heatmaps=0", "output.tensorboard_images=0"),
    *("trainer.enable_progress_bar=false", "data.batch_size=2"),
]
SLOW_TABLE = """
import os, sys, time
from m2ib_lightning.cli import main
from m2ib_lightning.datamodules.scenes import SceneSource
read = SceneSource.__getitem__
def slow(source, index):
    if index >= 6: open(os.environ["WAITS"], "w").close() or time.sleep(300)
    return read(source, index)
SceneSource.__getitem__ = slow
sys.exit(main(sys.argv[2:]))
"""
SLOW_STREAM = """
import os, sys, time
from m2ib_lightning.cli import main
from m2ib_lightning.datamodules import stream_loading
code_of = stream_loading.code_of
def slow(key):
    if key.endswith(":6"): open(os.environ["WAITS"], "w").close() or time.sleep(300)
    return code_of(key)
stream_loading.code_of = slow
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip_folder(tmp_path_factory.mktemp("clip"))


@pytest.mark.parametrize(
    ("source", "rows"), [pytest.param("table", 6, marks=pytest.mark.slow), ("stream", 4)]
)  # a stream reads one batch ahead
def test_a_signal_ends_the_wait_for_data(
    source: str,
    rows: int,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The signal comes while this process waits for a pair that takes 300 s."""
    words = [f"model.name={folder}", f"output_dir={tmp_path / 'run'}", *QUICK, "data.limit=9", "data.num_workers=0"]

    def wait() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(300)

    with monkeypatch.context() as patches:
        if source == "stream":
            words += [f"data.path={write_tars(tmp_path, 1, 9)}", "data.name=captions"]
            code_of = stream_loading.code_of
            patches.setattr(stream_loading, "code_of", lambda key: wait() if key.endswith(":6") else code_of(key))
        else:
            read = SceneSource.__getitem__
            patches.setattr(SceneSource, "__getitem__", lambda self, k: wait() if k >= 6 else read(self, k))
        began = time.monotonic()
        assert main(words) == 128 + signal.SIGTERM
        assert time.monotonic() - began < 60
    assert "stopped: " in capsys.readouterr().err
    assert_rows_are_kept_and_resumed(tmp_path / "run", rows, words)


def assert_rows_are_kept_and_resumed(run: Path, rows: int, words: list[str]) -> None:
    """Check that a stopped run has so many rows, and that resume does the rest of nine."""
    assert len(load_attributions(run)) == rows == json.loads((run / "summary.json").read_text())["pairs_done"]
    assert not list((run / "attributions").glob(".*"))
    assert main([*words, "resume=true"]) == 0
    assert len(load_attributions(run)) == 9


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("script", "rows"), [(SLOW_TABLE, 6), (SLOW_STREAM, 4)], ids=["table", "stream"])
def test_a_signal_ends_a_process_that_waits_for_data(
    script: str, rows: int, workers: int, folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    source = [f"data.path={write_tars(tmp_path, 1, 9)}", "data.name=captions"] if script == SLOW_STREAM else []
    words = [f"model.name={folder}", f"output_dir={run}", *QUICK, *source, "data.limit=9"]
    process = start([*words, f"data.num_workers={workers}"], ["-c", script], WAITS=tmp_path / "waits")
    wait_for_rows(run, rows)
    while not (tmp_path / "waits").exists():
        time.sleep(0.02)
    time.sleep(1)  # until the process whose decoder waits does so, too
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = finish(process, 128 + signal.SIGTERM)
    assert time.monotonic() - began < 60  # the next row would have come after 300 s
    assert "stopped: " in errors
    assert_rows_are_kept_and_resumed(run, rows, words)


def test_a_signal_interrupts_only_a_wait() -> None:
    stop = StopSignals()
    with stop.watching():
        with WAITING:
            pass
        os.kill(os.getpid(), signal.SIGTERM)  # during a batch
        assert stop.received == signal.SIGTERM
        with pytest.raises(Stopped, match="143"), WAITING:
            pytest.fail("the next batch is not waited for")
        os.kill(os.getpid(), signal.SIGTERM)  # during the clean-up
    with WAITING:  # in a later run
        pass


def test_a_second_signal_does_not_interrupt_the_clean_up() -> None:
    cleared = []

    def read() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            cleared.append(True)

    with StopSignals().watching(), pytest.raises(Stopped), WAITING:
        read()
    assert cleared == [True]


def test_a_wait_in_another_thread_does_not_interrupt_this_one() -> None:
    waits, signalled = threading.Event(), threading.Event()

    def wait() -> None:
        with WAITING:
            waits.set()
            signalled.wait(60)

    thread = threading.Thread(target=wait)
    with StopSignals().watching():
        thread.start()
        waits.wait(60)
        os.kill(os.getpid(), signal.SIGTERM)
        signalled.set()
        thread.join(60)
