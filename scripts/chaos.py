"""Kills runs at random moments with SIGKILL, fills their disk, resumes them, and compares them with uninterrupted runs.

    python scripts/chaos.py                                  # 20 kills of attribute and of evaluate, 20 fine-tunings
    python scripts/chaos.py --tasks finetune --kills 5       # 5 fine-tunings, each killed up to three times
    python scripts/chaos.py --quick                          # two of each, on few pairs

`attribute` and `evaluate` are resumed on another number of ranks each time. Their table must equal that of an
uninterrupted run of one process: no row is missing, none is there twice, and the numbers are the same. Each fine-tuning
begins in a new directory and must end with the weights of the uninterrupted one. As root on Linux the runs have a small
file system of their own (tmpfs), so that it can be filled, and so that temporary files are on another one.

The exit status is 0 if all of this holds, else 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file

from m2ib_lightning import load_attributions
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.evaluation.measures import MEASURES
from m2ib_lightning.evaluation.scores import load_scores
from m2ib_lightning.finetuning.checkpoint import read_checkpoint
from m2ib_lightning.run.differences import differences

ROOT = Path(__file__).parents[1]
FILE_SYSTEM = "512m"
"""Size of the file system of the runs."""

QUIET = ["trainer.accelerator=cpu", "trainer.enable_progress_bar=false"]
STEPS = ["bottleneck.steps=3", "bottleneck.noise_samples=2", "output.heatmaps=10", "output.tensorboard_images=0"]
KEYS = {
    "attribute": [*STEPS, *QUIET, "data.batch_size=2"],
    "evaluate": [
        *("task=evaluate", "evaluate.methods=[m2ib,gradcam,centre]", "evaluate.metrics=[localisation,confidence]"),
        *("evaluate.probed=1", "evaluate.seeds=1", "evaluate.resamples=10", "evaluate.pictures=2"),
        *("bottleneck.steps=3", "bottleneck.noise_samples=2", "data.batch_size=2", *QUIET),
        "trainer.precision=64-true",  # in float32, nearly equal pixels change places in other batches
    ],
    "finetune": [
        *("task=finetune", "data.limit=45", "data.batch_size=8", "data.num_workers=0", "trainer.max_epochs=2"),
        *("trainer.precision=64-true", "trainer.devices=1", "finetune.checkpoint_every=1", "finetune.maps=0"),
        *("finetune.mask=readout", *QUIET),
    ],
}
"""Keys of the runs. Fine-tuning is in float64, because Adam makes steps of rounding where a gradient is zero."""

TOLERANCE = 1e-6
"""Largest difference between the weights of two fine-tunings."""


def main(words: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(KEYS), default=list(KEYS))
    parser.add_argument("--kills", type=int, default=20, help="kills of each task; number of fine-tunings")
    parser.add_argument("--pairs", type=int, default=600, help="pairs of task=attribute; task=evaluate has a 15th")
    parser.add_argument("--ranks", type=int, default=4, help="largest number of ranks")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments and the numbers of ranks")
    parser.add_argument("--out", type=Path, help="folder that keeps the runs; no file system of its own then")
    parser.add_argument("--quick", action="store_true", help="the same as --kills 2 --pairs 60 --ranks 2")
    arguments = parser.parse_args(words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the file system is removed
    if arguments.quick:
        arguments.kills, arguments.pairs, arguments.ranks = 2, 60, 2
    with folder_for(arguments.out) as (out, own):
        print(f"runs in {out}, {'a file system of their own' if own else 'a plain directory: no disk is filled'}")
        bad = 0
        for task in arguments.tasks:
            rng = random.Random(f"{task} {arguments.seed}")
            if task == "finetune":
                bad += finetunings(arguments.kills, rng, out, own)
            else:
                pairs = arguments.pairs if task == "attribute" else max(8, arguments.pairs // 15)
                bad += rows_chaos(task, pairs, arguments.kills, arguments.ranks, rng, out)
    return 1 if bad else 0


@contextmanager
def folder_for(out: Path | None) -> Iterator[tuple[Path, bool]]:
    """Context with the folder of the runs, and whether it is a file system of its own."""
    if out is not None:
        yield out.absolute(), False
        return
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={FILE_SYSTEM}", "tmpfs", temporary]
        own = os.geteuid() == 0 and shutil.which("mount") is not None
        own = own and subprocess.run(mount, stderr=subprocess.DEVNULL, check=False).returncode == 0
        try:
            yield Path(temporary), own
        finally:
            if own:
                subprocess.run(["umount", "--lazy", temporary], check=True)


def rows_chaos(task: str, pairs: int, wanted: int, most_ranks: int, rng: random.Random, out: Path) -> int:
    """Run a task over pairs once without and once with kills; print what differs, return 0 if nothing does."""
    uninterrupted, killed_run = out / f"{task}-uninterrupted", out / f"{task}-killed"
    keys = [*KEYS[task], f"data.limit={pairs}"]
    start([*keys, f"output_dir={uninterrupted}"]).wait()
    ranks, kills = 1, 0
    while kills < wanted:
        ranks = rng.choice([number for number in range(1, most_ranks + 1) if number != ranks])
        process = start([*keys, f"output_dir={killed_run}", "resume=true", f"trainer.devices={ranks}"])
        before = rows(killed_run)
        target = min(before + rng.randint(0, 2 * pairs // wanted), pairs - 1)
        if rng.random() < 0.25:
            time.sleep(rng.uniform(0, 6))  # during the start, too
        else:
            wait_for_rows(process, killed_run, target)
            time.sleep(rng.uniform(0, 0.3))
        kills += kill(process)
        print(f"{task}, kill {kills}: {ranks} ranks, {before} -> {rows(killed_run)} of {pairs} rows", flush=True)
    ranks = rng.choice([number for number in range(1, most_ranks + 1) if number != ranks])
    status = start([*keys, f"output_dir={killed_run}", "resume=true", f"trainer.devices={ranks}"]).wait()
    lines = (
        differences(killed_run, uninterrupted) if task == "attribute" else score_differences(killed_run, uninterrupted)
    )
    summary = json.loads((killed_run / "summary.json").read_text())
    done = summary["pairs_done"] if task == "attribute" else rows(killed_run)
    print(f"{task}, at the end on {ranks} ranks: exit status {status}, {done} rows, {len(lines)} differences")
    print("\n".join(lines[:20]), flush=True)
    return 0 if status == 0 and not lines and done == pairs else 1


def score_differences(run: Path, other: Path) -> list[str]:
    """Return the differences between the scores of two runs, without those of time."""
    index = ["key", "method", "seed", "measure"]
    tables = [load_scores(folder).sort_values(index) for folder in (run, other)]
    tables = [table[table["measure"].map(lambda name: MEASURES[name].group != "time")] for table in tables]
    tables = [table.reset_index(drop=True) for table in tables]
    try:
        pd.testing.assert_frame_equal(*tables, rtol=1e-6, atol=1e-6)
    except AssertionError as error:
        return str(error).splitlines()
    return []


def finetunings(count: int, rng: random.Random, out: Path, can_fill: bool) -> int:
    """Fine-tune once without and ``count`` times with kills and full disks; return how many ended differently."""
    uninterrupted = out / "finetune-uninterrupted"
    process, began = start([*KEYS["finetune"], f"output_dir={uninterrupted}"]), time.monotonic()
    wait_for_launch(process, uninterrupted, 0)
    start_seconds = time.monotonic() - began
    process.wait()
    seconds = time.monotonic() - began - start_seconds
    print(f"finetune: {start_seconds:.1f} s to the start, then {seconds:.1f} s", flush=True)
    bad = 0
    for number in range(1, count + 1):
        run, events = out / f"finetune-{number}", list[str]()
        words = [*KEYS["finetune"], f"output_dir={run}", "resume=true"]
        faults = list[str]()
        for _ in range(rng.randint(1, 3)):
            process, launches = start(words, stderr=subprocess.PIPE), launch_count(run)
            if rng.random() < 0.15:
                time.sleep(rng.uniform(0, start_seconds))
            else:
                wait_for_launch(process, run, launches)
                time.sleep(rng.uniform(0, seconds))
            if can_fill and rng.random() < 0.3:
                events.append(fill(process, out, rng.randint(0, 8 << 20), faults))
            else:
                events.append("kill" if kill(process) else "ended")
            faults += torn(run)
        process = start(words, stderr=subprocess.PIPE)
        errors = process.communicate()[1]
        if process.returncode != 0:
            faults.append(f"exit status {process.returncode}: {errors.decode().strip().splitlines()[-1:]}")
        else:
            difference = weight_difference(run, uninterrupted)
            faults += [f"weights differ by {difference:.1e}"] if difference > TOLERANCE else []
        bad += bool(faults)
        verdict = "; ".join(faults) or f"the weights agree to {difference:.0e}"
        print(f"fine-tuning {number} of {count}: {', '.join(events)}: {verdict}", flush=True)
        if not faults:
            shutil.rmtree(run)
    print(f"{count - bad} of {count} fine-tunings resumed to the uninterrupted weights", flush=True)
    return bad


def fill(process: subprocess.Popen[bytes], out: Path, free: int, faults: list[str]) -> str:
    """Fill the file system until the run has ended; note a failure that is not explained in a message."""
    ballast = out / "ballast"
    with ballast.open("wb") as file:
        while process.poll() is None:
            with suppress(OSError):  # the run has just written something
                os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(out).free - free))
                break
        errors = process.communicate()[1].decode()
    ballast.unlink()
    if "Traceback" in errors or process.returncode not in (0, 2):
        faults.append(f"on a full disk: exit status {process.returncode}, {errors.strip().splitlines()[-1:]}")
    return f"full disk ({process.returncode})"


def torn(run: Path) -> list[str]:
    """Return what is wrong with the files of a killed fine-tuning."""
    faults = []
    last = run / "checkpoints" / "last.ckpt"
    if last.exists():
        try:
            read_checkpoint(last)
        except M2IBError as error:
            faults.append(str(error))
    if (run / "model").exists():
        for name in ("config.json", "model.safetensors", "tokenizer.json", "m2ib.yaml", "m2ib_bottleneck.safetensors"):
            faults += [] if (run / "model" / name).stat().st_size else [f"model/{name} is empty"]
    return faults


def weight_difference(run: Path, other: Path) -> float:
    """Return the largest difference between the weights of two fine-tuned models and of their bottlenecks."""
    names = ("model.safetensors", "m2ib_bottleneck.safetensors")
    first, second = ([load_file(folder / "model" / name) for name in names] for folder in (run, other))
    largest = 0.0
    for one, two in zip(first, second, strict=True):
        if set(one) != set(two):
            return float("inf")
        largest = max([largest, *(float((one[name].double() - two[name].double()).abs().max()) for name in one)])
    return largest


def start(words: list[str], **streams: Any) -> subprocess.Popen[bytes]:
    """Start ``python fit.py`` in its own process group."""
    command = [sys.executable, "fit.py", *words]
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=ROOT, env=variables, stdout=subprocess.DEVNULL, start_new_session=True, **streams
    )


def kill(process: subprocess.Popen[bytes]) -> bool:
    """Kill the process and its children; return whether it was still there."""
    alive = process.poll() is None
    if alive:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return alive


def wait_for_rows(process: subprocess.Popen[bytes], run: Path, count: int) -> None:
    """Wait until the run has more than ``count`` rows, or has ended."""
    end = time.monotonic() + 120
    while rows(run) <= count and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)


def wait_for_launch(process: subprocess.Popen[bytes], run: Path, before: int) -> None:
    """Wait until the run has more launches than before, or has ended."""
    end = time.monotonic() + 120
    while launch_count(run) <= before and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)


def launch_count(run: Path) -> int:
    """Return the number of launches of a run."""
    return len(list((run / "launches").glob("*")))


def rows(run: Path) -> int:
    """Return the number of rows of a run."""
    if (run / "scores").is_dir():
        return int(load_scores(run)["key"].nunique())
    return len(load_attributions(run, ["key"])) if (run / "attributions").is_dir() else 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
