"""Kills a run at random moments with SIGKILL, resumes it each time on another number of ranks, and compares the tables.

    python scripts/chaos.py                 # 20 kills
    python scripts/chaos.py --kills 2 --pairs 60

Exit status 0 if the table at the end is that of an uninterrupted run of one process: nothing missing, nothing twice,
the same numbers; else 1.
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

ROOT = Path(__file__).parent.parent
STEPS = ["bottleneck.steps=3", "bottleneck.noise_samples=2", "output.heatmaps=10", "output.tensorboard_images=0"]
KEYS = [*STEPS, "data.batch_size=2", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false"]


def main(words: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=600)
    parser.add_argument("--ranks", type=int, default=4, help="at most so many")
    parser.add_argument("--seed", type=int, default=0, help="keys the moments and the numbers of ranks")
    parser.add_argument("--out", type=Path, help="keep the runs there")
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as temporary:
        return chaos(given, given.out or Path(temporary))


def chaos(given: argparse.Namespace, out: Path) -> int:
    """The uninterrupted run, the interrupted one, and what differs."""
    rng = random.Random(given.seed)
    whole, broken = out / "whole", out / "broken"
    keys = [*KEYS, f"data.limit={given.pairs}"]
    start([*keys, f"output_dir={whole}"]).wait()
    ranks, killed = 1, 0
    while killed < given.kills:
        ranks = rng.choice([number for number in range(1, given.ranks + 1) if number != ranks])
        process = start([*keys, f"output_dir={broken}", "resume=true", f"trainer.devices={ranks}"])
        before = rows(broken)
        target = min(before + rng.randint(0, 2 * given.pairs // given.kills), given.pairs - 1)
        if rng.random() < 0.25:
            time.sleep(rng.uniform(0, 6))  # while it starts, too
        else:
            wait_for(process, broken, target)
            time.sleep(rng.uniform(0, 0.3))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
        print(f"kill {killed}: {ranks} ranks, {before} -> {rows(broken)} of {given.pairs} rows", flush=True)
    ranks = rng.choice([number for number in range(1, given.ranks + 1) if number != ranks])
    status = start([*keys, f"output_dir={broken}", "resume=true", f"trainer.devices={ranks}"]).wait()
    found = differences(broken, whole)
    summary = json.loads((broken / "summary.json").read_text())
    print(f"at the end, on {ranks} ranks: exit status {status}, {rows(broken)} rows, {len(found)} differences")
    print("\n".join(found[:20]))
    return 0 if status == 0 and not found and summary["pairs_done"] == given.pairs else 1


def start(words: list[str]) -> subprocess.Popen[bytes]:
    """``python fit.py`` in a process group of its own."""
    command = [sys.executable, "fit.py", *words]
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.DEVNULL, start_new_session=True)


def wait_for(process: subprocess.Popen[bytes], run: Path, count: int) -> None:
    """Until the run has more rows than that, or is over."""
    end = time.monotonic() + 120
    while rows(run) <= count and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)


def rows(run: Path) -> int:
    """How many rows there are."""
    return len(load_attributions(run, ["key"])) if (run / "attributions").is_dir() else 0


if __name__ == "__main__":
    sys.exit(main())
