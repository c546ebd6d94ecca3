"""Kills a run at random moments with SIGKILL, resumes it on another number of ranks, and compares the tables.

    python scripts/chaos.py                 # 20 kills
    python scripts/chaos.py --kills 2 --pairs 60

The exit status is 0 if the final table equals that of an uninterrupted run of one process: no row is missing, none is
there twice, and the numbers are the same. Else it is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from m2ib_lightning import load_attributions
from m2ib_lightning.run.differences import differences

ROOT = Path(__file__).parents[1]
STEPS = ["bottleneck.steps=3", "bottleneck.noise_samples=2", "output.heatmaps=10", "output.tensorboard_images=0"]
KEYS = [*STEPS, "data.batch_size=2", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false"]


def main(words: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=600)
    parser.add_argument("--ranks", type=int, default=4, help="largest number of ranks")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments and the numbers of ranks")
    parser.add_argument("--out", type=Path, help="folder that keeps the runs")
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as temporary:
        return chaos(arguments, arguments.out or Path(temporary))


def chaos(arguments: argparse.Namespace, out: Path) -> int:
    """Run once without and once with kills; print what differs, return the exit status."""
    rng = random.Random(arguments.seed)
    uninterrupted, killed_run = out / "uninterrupted", out / "killed"
    keys = [*KEYS, f"data.limit={arguments.pairs}"]
    start([*keys, f"output_dir={uninterrupted}"]).wait()
    ranks, kills = 1, 0
    while kills < arguments.kills:
        ranks = rng.choice([number for number in range(1, arguments.ranks + 1) if number != ranks])
        process = start([*keys, f"output_dir={killed_run}", "resume=true", f"trainer.devices={ranks}"])
        before = rows(killed_run)
        target = min(before + rng.randint(0, 2 * arguments.pairs // arguments.kills), arguments.pairs - 1)
        if rng.random() < 0.25:
            time.sleep(rng.uniform(0, 6))  # during the start, too
        else:
            wait_for(process, killed_run, target)
            time.sleep(rng.uniform(0, 0.3))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        print(f"kill {kills}: {ranks} ranks, {before} -> {rows(killed_run)} of {arguments.pairs} rows", flush=True)
    ranks = rng.choice([number for number in range(1, arguments.ranks + 1) if number != ranks])
    status = start([*keys, f"output_dir={killed_run}", "resume=true", f"trainer.devices={ranks}"]).wait()
    lines = differences(killed_run, uninterrupted)
    summary = json.loads((killed_run / "summary.json").read_text())
    print(f"at the end, on {ranks} ranks: exit status {status}, {rows(killed_run)} rows, {len(lines)} differences")
    print("\n".join(lines[:20]))
    return 0 if status == 0 and not lines and summary["pairs_done"] == arguments.pairs else 1


def start(words: list[str]) -> subprocess.Popen[bytes]:
    """Start ``python fit.py`` in its own process group."""
    command = [sys.executable, "fit.py", *words]
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.DEVNULL, start_new_session=True)


def wait_for(process: subprocess.Popen[bytes], run: Path, count: int) -> None:
    """Wait until the run has more than ``count`` rows, or has ended."""
    end = time.monotonic() + 120
    while rows(run) <= count and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)


def rows(run: Path) -> int:
    """Return the number of rows of a run."""
    return len(load_attributions(run, ["key"])) if (run / "attributions").is_dir() else 0


if __name__ == "__main__":
    sys.exit(main())
