"""The rate of two ranks beside that of two runs of one rank at the same time, each process with one thread.

    python benchmarks/scaling.py                    # 200 pairs with the bundled model, three rounds

Ranks share nothing while they work, so the ratio should be 1; what is below it is what the strategy costs. Rates leave
out the start of the processes; the seconds from the command to its end are printed beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from machine import describe

ROOT = Path(__file__).parent.parent
KEYS = [
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "output.heatmaps=0",
    "output.tensorboard_images=0",
]


def start(run: Path, pairs: int, words: list[str]) -> subprocess.Popen[bytes]:
    """``python fit.py`` on one thread a process."""
    command = [sys.executable, "fit.py", f"output_dir={run}", f"data.limit={pairs}", *KEYS, *words]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)


def rate(processes: list[subprocess.Popen[bytes]], runs: list[Path]) -> tuple[float, float]:
    """Pairs a second, summed over the runs, and the seconds until all had ended."""
    begun = time.perf_counter()
    if any(process.wait() for process in processes):
        raise SystemExit("a run failed")
    seconds = time.perf_counter() - begun
    return sum(json.loads((run / "summary.json").read_text())["pairs_per_second"] for run in runs), seconds


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("words", nargs="*", help="more keys for fit.py")
    given = parser.parse_args()
    print(f"machine: {describe(torch.device('cpu'))}", flush=True)
    ratios = []
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(given.rounds):
            apart = [Path(temporary) / f"{number}-apart-{k}" for k in range(2)]
            both = Path(temporary) / f"{number}-ranks"
            half = given.pairs // 2
            alone, seconds_alone = rate([start(run, half, given.words) for run in apart], apart)
            ranks, seconds_ranks = rate([start(both, 2 * half, ["trainer.devices=2", *given.words])], [both])
            ratios.append(ranks / alone)
            print(
                f"round {number + 1}: two ranks {ranks:.2f} pairs/s ({seconds_ranks:.1f} s in all), two runs "
                f"{alone:.2f} pairs/s ({seconds_alone:.1f} s in all), ratio {ratios[-1]:.3f}",
                flush=True,
            )
    print(f"median ratio {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
