"""Compares the rate of two ranks with that of two simultaneous runs of one rank, each process with one thread.

    python benchmarks/scaling.py                    # 200 pairs with the bundled model, three rounds

Ranks share nothing while they work, so the ratio should be 1; a lower ratio is the cost of the strategy. Rates do not
include the start of the processes; the seconds of the complete commands are printed too.
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

ROOT = Path(__file__).parents[1]
KEYS = [
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "output.heatmaps=0",
    "output.tensorboard_images=0",
]


def start(run: Path, pairs: int, words: list[str]) -> subprocess.Popen[bytes]:
    """Start ``python fit.py`` with one thread per process."""
    command = [sys.executable, "fit.py", f"output_dir={run}", f"data.limit={pairs}", *KEYS, *words]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)


def rate(processes: list[subprocess.Popen[bytes]], runs: list[Path]) -> tuple[float, float]:
    """Return the pairs per second, summed over the runs, and the seconds until all have ended."""
    start_time = time.perf_counter()
    if any(process.wait() for process in processes):
        raise SystemExit("a run failed")
    seconds = time.perf_counter() - start_time
    return sum(json.loads((run / "summary.json").read_text())["pairs_per_second"] for run in runs), seconds


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("words", nargs="*", help="further keys for fit.py")
    arguments = parser.parse_args()
    print(f"machine: {describe(torch.device('cpu'))}", flush=True)
    ratios = []
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(arguments.rounds):
            apart = [Path(temporary) / f"{number}-apart-{k}" for k in range(2)]
            both = Path(temporary) / f"{number}-ranks"
            half = arguments.pairs // 2
            alone, seconds_alone = rate([start(run, half, arguments.words) for run in apart], apart)
            ranks, seconds_ranks = rate([start(both, 2 * half, ["trainer.devices=2", *arguments.words])], [both])
            ratios.append(ranks / alone)
            print(
                f"round {number + 1}: two ranks {ranks:.2f} pairs/s ({seconds_ranks:.1f} s in all), two runs "
                f"{alone:.2f} pairs/s ({seconds_alone:.1f} s in all), ratio {ratios[-1]:.3f}",
                flush=True,
            )
    print(f"median ratio {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
