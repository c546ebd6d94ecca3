"""Of several starts of one run at once, one passes and the others are refused; for every task."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from m2ib_lightning import M2IBError
from m2ib_lightning.cli import main
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.run.sharding import ranks_at_work
from m2ib_lightning.tasks import run_start
from m2ib_lightning.tasks.run_start import begin_locked_launch, join_locked_launch, refuse_second_start

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_start, "_DYING_SECONDS", 1.0)


def begin(path: Path, begun: Connection, ended: Connection) -> None:
    """Begin a launch and hold its lock until the test has seen all starts."""
    try:
        launch, lock = begin_locked_launch(RunDirectory(path), 1, 10)
    except M2IBError as error:
        begun.send(str(error))
        return
    with lock:
        begun.send(launch.number)
        ended.recv()


def test_one_of_several_starts_at_once_passes(tmp_path: Path) -> None:
    starts = 4
    (ours, theirs), (theirs_too, ours_too) = FORK.Pipe(duplex=False), FORK.Pipe(duplex=False)
    processes = [FORK.Process(target=begin, args=(tmp_path, theirs, theirs_too)) for _ in range(starts)]
    for process in processes:
        process.start()
    answers = [ours.recv() for _ in processes]
    passed = [answer for answer in answers if isinstance(answer, int)]
    assert len(passed) == 1
    for answer in answers:
        if answer not in passed:
            assert "is still at work (process" in answer or "has just started this run" in answer
    assert [folder.name for folder in (tmp_path / "launches").iterdir()] == [f"{passed[0]:04d}"]
    ours_too.send("all have begun")
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert ranks_at_work(tmp_path / "launches") == []


@pytest.mark.parametrize(
    "task",
    ["finetune", pytest.param("attribute", marks=pytest.mark.slow), pytest.param("evaluate", marks=pytest.mark.slow)],
)
def test_a_run_that_is_at_work_is_not_started_again(
    task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (ours, theirs), (theirs_too, ours_too) = FORK.Pipe(duplex=False), FORK.Pipe(duplex=False)
    other = FORK.Process(target=begin, args=(tmp_path, theirs, theirs_too))
    other.start()
    assert ours.recv() == 1
    words = [f"task={task}", "data.limit=8", "data.batch_size=4", f"output_dir={tmp_path}", "resume=true"]
    assert main([*words, "trainer.accelerator=cpu", "trainer.devices=1"]) == 2
    assert f"an earlier start of this run is still at work (process {other.pid} on" in capsys.readouterr().err
    ours_too.send("refused")
    other.join(30)
    refuse_second_start(RunDirectory(tmp_path))


def test_a_start_that_was_killed_does_not_count(tmp_path: Path) -> None:
    (ours, theirs), (theirs_too, _) = FORK.Pipe(duplex=False), FORK.Pipe(duplex=False)
    other = FORK.Process(target=begin, args=(tmp_path, theirs, theirs_too))
    other.start()
    assert ours.recv() == 1
    assert other.pid is not None
    os.kill(other.pid, signal.SIGKILL)
    began = time.monotonic()
    launch, lock = begin_locked_launch(RunDirectory(tmp_path), 1, 10)
    lock.close()
    assert launch.number == 2
    assert time.monotonic() - began < 4.0  # a start that takes it for one at work waits 5 s
    other.join(30)


def test_a_rank_joins_only_the_last_launch_with_its_number_of_ranks(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    launch, lock = begin_locked_launch(run, 2, 10)
    joined, second = join_locked_launch(run, launch.folder.name, 1, 2)
    assert joined == launch
    second.close()
    lock.close()
    with pytest.raises(M2IBError, match="rank 0 knows 2 ranks and this one 3"):
        join_locked_launch(run, launch.folder.name, 1, 3)
    begin_locked_launch(run, 2, 10)[1].close()
    (launch.folder / "rank-00001.lock").unlink()
    with pytest.raises(M2IBError, match=r"start 1 of .* is over"):
        join_locked_launch(run, launch.folder.name, 1, 2)
