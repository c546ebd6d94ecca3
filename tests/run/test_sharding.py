"""Several ranks, under every launcher, give the table of one rank; in real processes, as users start them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from m2ib_lightning import load_attributions
from m2ib_lightning.cli import main
from m2ib_lightning.run.differences import differences
from tests import ROOT
from tests.folders import save_clip_folder
from tests.ranks import free_port, launch_forks
from tests.run.pages import PageReader

PAIRS = 31
"""Few, because the start of the processes takes most of the time."""

MANY_PAIRS = 101
"""Enough that a signal from outside comes while the ranks are at work."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip_folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def keys(folder: Path) -> list[str]:
    """Keys of all runs here; in float64, because batches of another size round differently in float32."""
    fast = ["bottleneck.steps=2", "bottleneck.noise_samples=2", "output.heatmaps=3", "output.tensorboard_images=1"]
    quiet = ["trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "trainer.precision=64-true"]
    return [f"model.name={folder}", *fast, *quiet]


@pytest.fixture(scope="module")
def single(keys: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run of one process."""
    run = tmp_path_factory.mktemp("single") / "run"
    assert main([*keys, f"data.limit={PAIRS}", f"output_dir={run}"]) == 0
    return run


@pytest.fixture(scope="module")
def long_single(keys: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run of one process over ``MANY_PAIRS``."""
    run = tmp_path_factory.mktemp("single") / "run"
    assert main([*keys, f"data.limit={MANY_PAIRS}", f"output_dir={run}"]) == 0
    return run


def start(words: list[str], module: list[str] | None = None, **environment: Any) -> subprocess.Popen[str]:
    """Start ``python fit.py`` with some arguments, or under another module, in a process group of its own."""
    return start_program([*(module or []), "fit.py", *words], **environment)


def start_program(arguments: list[str], **environment: Any) -> subprocess.Popen[str]:
    """Start Python with some arguments in a process group of its own."""
    command = [sys.executable, *arguments]
    variables = os.environ | {"OMP_NUM_THREADS": "1"} | {name: str(value) for name, value in environment.items()}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_heed_ctrl_c,
    )


def _heed_ctrl_c() -> None:
    """Undo what a background shell does to the programs that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process: subprocess.Popen[str], status: int = 0) -> tuple[str, str]:
    """Check the exit status of a process and return what it wrote to stdout and stderr."""
    printed, errors = process.communicate(timeout=480)
    assert process.returncode == status, printed + errors
    assert "Traceback" not in errors
    return printed, errors


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_several_ranks_give_the_table_of_one(ranks: int, keys: list[str], single: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [*keys, f"data.limit={PAIRS}", f"output_dir={run}", f"trainer.devices={ranks}"]
    printed, errors = finish(start(words))
    assert_table_of_one(run, single, ranks, printed, errors)


def test_a_rank_and_its_fork_give_the_table_of_one(
    keys: list[str],
    single: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The launcher and both ranks, without the cost of a new process."""
    run = tmp_path / "run"
    words = [*keys, f"data.limit={PAIRS}", f"output_dir={run}", "trainer.devices=2"]
    assert launch_forks(words, monkeypatch) == 0
    printed, errors = capfd.readouterr()
    assert_table_of_one(run, single, 2, printed, errors)


def assert_table_of_one(run: Path, single: Path, ranks: int, printed: str, errors: str) -> None:
    """Check the files and messages of a run on several ranks."""
    assert differences(run, single) == []
    assert f"{PAIRS} pairs on {ranks} ranks" in printed
    assert printed.count(f"{PAIRS} pairs explained") == 1
    assert not errors
    assert len({part.name.split("-")[2] for part in (run / "attributions").iterdir()}) == ranks
    summary, expected = (json.loads((folder / "summary.json").read_text()) for folder in (run, single))
    assert (summary["pairs_done"], summary["pairs_skipped"], summary["ranks_lost"]) == (PAIRS, 0, [])
    for name, value in expected.items():
        if name.startswith("mean_"):
            assert summary[name] == pytest.approx(value, abs=1e-6)
    assert len(list((run / "heatmaps").iterdir())) == 3
    page = PageReader(run / "report.html")
    assert len(page.rows) == PAIRS
    assert sum("thumb" in row for row in page.rows) == 3


@pytest.mark.slow
def test_ranks_without_a_pair(keys: list[str], single: Path, tmp_path: Path) -> None:
    finish(start([*keys, "data.limit=3", f"output_dir={tmp_path / 'run'}", "trainer.devices=4"]))
    rows = load_attributions(tmp_path / "run")
    assert rows["key"] == load_attributions(single)["key"][:3]
    assert rows["error"] == [None] * 3


@pytest.mark.slow
def test_torchrun(keys: list[str], single: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--master_addr=127.0.0.1"]
    module = [*torchrun, f"--master_port={free_port()}"]
    printed, _ = finish(start([*keys, f"data.limit={PAIRS}", f"output_dir={run}"], module))
    assert differences(run, single) == []
    assert f"{PAIRS} pairs on 2 ranks" in printed
    assert "rank 0 has finished" in printed or "rank 1 has finished" in printed
    again = start([*keys, f"data.limit={PAIRS}", f"output_dir={run}"], [*torchrun, f"--master_port={free_port()}"])
    printed, errors = again.communicate(timeout=240)
    assert again.returncode != 0
    assert "holds a run already" in errors
    assert len(list((run / "launches").iterdir())) == 1


@pytest.mark.slow
def test_two_nodes(keys: list[str], single: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [*keys, f"data.limit={PAIRS}", f"output_dir={run}", "trainer.devices=2", "trainer.num_nodes=2"]
    meeting: dict[str, Any] = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    nodes = [start(words, NODE_RANK=node, **meeting) for node in (1, 0)]
    printed = [finish(node)[0] for node in nodes]
    assert differences(run, single) == []
    assert f"{PAIRS} pairs on 4 ranks" in printed[1]
    assert sum(text.count(f"{PAIRS} pairs explained") for text in printed) == 1


@pytest.mark.slow
def test_when_rank_0_can_not_begin_the_others_receive_its_error(keys: list[str], single: Path) -> None:
    words = [*keys, f"data.limit={PAIRS}", f"output_dir={single}", "trainer.devices=1", "trainer.num_nodes=2"]
    meeting: dict[str, Any] = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    nodes = [start(words, NODE_RANK=node, **meeting) for node in (1, 0)]
    errors = [finish(node, 2)[1] for node in nodes]
    assert "error: rank 0 did not begin: output_dir=" in errors[0]
    assert "holds a run already: resume it with resume=true" in errors[1]


USER_SCRIPT = """
import sys
from pathlib import Path
from lightning import Trainer
from m2ib_lightning import BottleneckSettings, M2IBModule, ScenesDataModule, load_model
from m2ib_lightning.run.callbacks import TableWriter
model, folder = load_model(sys.argv[1]), Path(sys.argv[2])
folder.mkdir(parents=True, exist_ok=True)
settings = BottleneckSettings().override({"steps": 2, "noise_samples": 2})
plain = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "enable_progress_bar": False}
ranks = {"strategy": "samples", "devices": 2, "accelerator": "cpu", "precision": "64-true"}
trainer = Trainer(**ranks, max_epochs=1, callbacks=[TableWriter(folder)], **plain)
trainer.fit(M2IBModule(model, settings), datamodule=ScenesDataModule(model.preparer, limit=9))
"""


@pytest.mark.slow
def test_a_trainer_of_the_user(folder: Path, single: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(USER_SCRIPT)
    command = [sys.executable, str(tmp_path / "own.py"), str(folder), str(tmp_path / "run" / "attributions")]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    rows, expected = load_attributions(tmp_path / "run").to_list(), load_attributions(single).to_list()[:9]
    assert [row["key"] for row in rows] == [row["key"] for row in expected]
    for row, other in zip(rows, expected, strict=True):
        assert row["image_saliency"] == pytest.approx(other["image_saliency"], abs=1e-4 * max(other["image_saliency"]))


def slurm(run: Path, task: int, port: int, path: Path) -> dict[str, Any]:
    """Return the environment of a Slurm task that ``srun`` started."""
    job = {"SLURM_JOB_ID": 4242, "SLURM_JOB_NAME": "m2ib", "SLURM_NODELIST": "127.0.0.1", "SLURM_NTASKS": 2}
    place = {"SLURM_STEP_ID": 0, "SLURM_NNODES": 1, "SLURM_NODEID": 0, "SLURM_PROCID": task}
    tools = f"{path}{os.pathsep}{os.environ['PATH']}"
    return job | place | {"SLURM_LOCALID": task, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "PATH": tools}


@pytest.mark.slow
def test_slurm_s_signal_finishes_the_batch_and_requeues_the_job(
    keys: list[str], long_single: Path, tmp_path: Path
) -> None:
    run, requests = tmp_path / "run", tmp_path / "requests.txt"
    script = f'#!/bin/sh\necho "$@" >> {requests}\ntest -e {run}/report.html && echo late >> {requests}\n'
    (tmp_path / "scontrol").write_text(script + "exit 0\n")
    (tmp_path / "scontrol").chmod(0o755)
    words = [*keys, f"data.limit={MANY_PAIRS}", f"output_dir={run}", "resume=true", "data.batch_size=1"]
    slow = [*words, "bottleneck.max_rows=1"]
    port = free_port()
    tasks = [start(slow, **slurm(run, task, port, tmp_path)) for task in (0, 1)]
    wait_for_rows(run, 2)
    for task in tasks:
        os.killpg(task.pid, signal.SIGUSR1)  # as Slurm does: to every process of the step, decoding workers too
    errors = [finish(task, 128 + signal.SIGUSR1)[1] for task in tasks]
    assert "pairs were not reached" in "".join(errors)
    assert requests.read_text() == "requeue 4242\n"
    done = len(load_attributions(run))
    assert 2 <= done < MANY_PAIRS

    port = free_port()
    tasks = [start(words, **slurm(run, task, port, tmp_path)) for task in (0, 1)]
    printed = "".join(finish(task)[0] for task in tasks)
    assert f"{MANY_PAIRS} pairs on 2 ranks, {done} of them done before" in printed
    assert differences(run, long_single) == []
    assert requests.read_text() == "requeue 4242\n"


def wait_for_rows(run: Path, rows: int) -> None:
    """Wait until the run has a number of rows."""
    end = time.monotonic() + 300
    while not (run / "attributions").is_dir() or len(load_attributions(run)) < rows:
        assert time.monotonic() < end, f"no {rows} rows in {run}"
        time.sleep(0.1)


DYING_RANK = """
import os, signal, sys
from m2ib_lightning.cli import main
from m2ib_lightning.datamodules.scenes import SceneSource
read = SceneSource.__getitem__
def read_or_die(source, index):
    if os.environ.get("LOCAL_RANK") == "1" and index > 6: os.kill(os.getpid(), signal.SIGKILL)
    return read(source, index)
SceneSource.__getitem__ = read_or_die
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_dead_rank_costs_its_own_pairs_and_resume_does_them(
    keys: list[str], single: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, script = tmp_path / "run", tmp_path / "dying_rank.py"
    script.write_text(DYING_RANK)
    words = [*keys, f"data.limit={PAIRS}", f"output_dir={run}", "data.batch_size=1", "data.num_workers=0"]
    _, errors = finish(start_program([str(script), *words, "trainer.devices=2"]), 3)
    missing = assert_rank_1_is_lost(run, errors, PAIRS, ranks=2)
    assert 0 < missing < 15, "its first pairs are in the table"
    assert_resumed_run_equals(single, run, words, PAIRS - missing, capsys)


@pytest.mark.slow
def test_a_killed_rank_costs_its_own_pairs_and_resume_does_them(
    keys: list[str], long_single: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = [*keys, f"data.limit={MANY_PAIRS}", f"output_dir={run}", "data.batch_size=1"]
    process = start([*words, "trainer.devices=3", "bottleneck.max_rows=1"])
    victim = run / "launches" / "0001" / "rank-00001.lock"
    wait_for_rows(run, 3)
    while not victim.exists() or not victim.read_text():
        time.sleep(0.02)
    os.kill(int(victim.read_text().split()[1]), signal.SIGKILL)
    _, errors = finish(process, 3)
    missing = assert_rank_1_is_lost(run, errors, MANY_PAIRS, ranks=3)
    assert 0 < missing <= 34
    assert_resumed_run_equals(long_single, run, words, MANY_PAIRS - missing, capsys)


def assert_rank_1_is_lost(run: Path, errors: str, pairs: int, ranks: int) -> int:
    """Check summary and messages of a run whose rank 1 died, and return the number of missing pairs."""
    summary = json.loads((run / "summary.json").read_text())
    assert summary["ranks_lost"] == [1]
    missing = pairs - int(summary["pairs_done"])
    assert missing == summary["pairs_skipped"]
    done = set(load_attributions(run)["key"])
    keys = [f"scenes-0:{k}" for k in range(1, pairs, ranks) if f"scenes-0:{k}" not in done]
    assert summary["first_skipped"] == keys[:20]
    assert f"rank 1 died: {missing} of {pairs} pairs were not reached" in errors
    return missing


def assert_resumed_run_equals(
    expected: Path, run: Path, words: list[str], done: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Resume a run in this process and compare its table with that of an uninterrupted run."""
    assert main([*words, "resume=true"]) == 0
    assert f"{done} of them done before" in capsys.readouterr().out
    assert differences(run, expected) == []


def start_two_at_work(words: list[str], run: Path) -> subprocess.Popen[str]:
    """Start two ranks and wait until both are at work: an earlier signal would simply end the processes."""
    process = start([*words, "trainer.devices=2", "bottleneck.max_rows=1"])
    wait_for_rows(run, 2)
    while len(list((run / "launches" / "0001").glob("*.lock"))) < 2:
        time.sleep(0.02)
    return process


@pytest.mark.slow
def test_sigterm_finishes_the_batch_on_all_ranks(keys: list[str], long_single: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [*keys, f"data.limit={MANY_PAIRS}", f"output_dir={run}", "data.batch_size=1"]
    process = start_two_at_work(words, run)
    process.send_signal(signal.SIGTERM)  # to the parent alone, which passes it on
    _, errors = finish(process, 128 + signal.SIGTERM)
    assert "stopped: " in errors
    summary = json.loads((run / "summary.json").read_text())
    assert summary["ranks_lost"] == []
    assert 0 < summary["pairs_done"] == MANY_PAIRS - summary["pairs_skipped"] < MANY_PAIRS
    assert not list((run / "attributions").glob(".*"))
    assert main([*words, "resume=true"]) == 0
    assert differences(run, long_single) == []


@pytest.mark.slow
def test_ctrl_c_ends_all_ranks_and_keeps_the_finished_rows(keys: list[str], long_single: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [*keys, f"data.limit={MANY_PAIRS}", f"output_dir={run}", "data.batch_size=1"]
    process = start_two_at_work(words, run)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    finish(process, 130)
    summary = json.loads((run / "summary.json").read_text())
    assert 0 < summary["pairs_done"] == len(load_attributions(run)) < MANY_PAIRS
    assert main([*words, "resume=true"]) == 0
    assert differences(run, long_single) == []


@pytest.mark.slow
def test_a_second_launch_is_refused_while_the_first_is_at_work(keys: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [*keys, f"data.limit={MANY_PAIRS}", f"output_dir={run}", "data.batch_size=1", "bottleneck.max_rows=1"]
    process = start([*words, "trainer.devices=2"])
    wait_for_rows(run, 1)
    os.killpg(process.pid, signal.SIGSTOP)  # it lives and holds its locks, but does not end
    _, errors = finish(start([*words, "resume=true"]), 2)
    assert "an earlier start of this run is still at work (process " in errors
    assert ", remove launches/0001/rank-00000.lock" in errors
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
