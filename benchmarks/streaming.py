"""Streams many pairs of small images through the bundled model; prints the memory, time and bytes they cost.

    python benchmarks/streaming.py                  # 100,000 pairs, one step, one draw
    python benchmarks/streaming.py --pairs 5000

The pairs are in tar shards of 1,000; 500 different scenes are repeated. Memory is that of the process and of its
workers, measured after each batch. "Outside the model" is the time between two calls of the explainer: waiting for
pairs, writing rows, Lightning.
"""

from __future__ import annotations

import argparse
import io
import os
import tarfile
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from machine import describe

from m2ib_lightning.cli import main as run_command
from m2ib_lightning.datamodules.scenes import SceneSource
from m2ib_lightning.m2ib.explainer import Explainer

SHARD = 1000
"""Pairs of a shard."""

SETTLED = 1000
"""Pairs after which memory should stay constant."""


@dataclass
class Meter:
    """Measures the pairs done and the memory after each batch, and the time in the explainer.

    Attributes:
        inside: seconds in the explainer.
        pairs: number of pairs done.
        memory: pairs done and bytes, after each batch.
    """

    inside: float = 0.0
    pairs: int = 0
    memory: list[tuple[int, int]] = field(default_factory=list)

    def attach(self) -> None:
        """Measure every explainer of this process."""
        explain = Explainer.__call__

        def measured(explainer: Explainer, batch: Any, *rest: Any) -> Any:
            start = time.perf_counter()
            results = explain(explainer, batch, *rest)
            self.inside += time.perf_counter() - start
            self.pairs += len(results)
            self.memory.append((self.pairs, resident()))
            return results

        Explainer.__call__ = measured  # type: ignore[method-assign, assignment]

    def at(self, pairs: int) -> int:
        """Return the bytes after that many pairs."""
        return next(size for done, size in self.memory if done >= pairs)

    def largest(self, first: int) -> int:
        """Return the peak of memory in bytes once ``first`` pairs were done."""
        return max(size for done, size in self.memory if done >= first)


def resident() -> int:
    """Return the resident bytes of this process and its children."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    pages = 0
    for process in ("self", *children):
        try:
            pages += int(Path(f"/proc/{process}/statm").read_text().split()[1])
        except OSError:  # the process has just ended
            continue
    return pages * os.sysconf("SC_PAGE_SIZE")


def write_shards(folder: Path, pairs: int) -> None:
    """Write scenes and their captions to tar shards."""
    source, scenes = SceneSource(0), []
    for index in range(len(source)):
        raw, buffer = source[index], io.BytesIO()
        raw.image.save(buffer, "PNG")  # type: ignore[union-attr]
        scenes.append({"png": buffer.getvalue(), "txt": str(raw.caption).encode()})
    for first in range(0, pairs, SHARD):
        with tarfile.open(folder / f"{first // SHARD:05d}.tar", "w") as archive:
            for number in range(first, min(first + SHARD, pairs)):
                for ending, content in scenes[number % len(scenes)].items():
                    header = tarfile.TarInfo(f"{number:08d}.{ending}")
                    header.size = len(content)
                    archive.addfile(header, io.BytesIO(content))


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("words", nargs="*", help="further keys for fit.py")
    arguments = parser.parse_args()
    meter = Meter()
    with tempfile.TemporaryDirectory() as temporary:
        folder, run = Path(temporary) / "shards", Path(temporary) / "run"
        folder.mkdir()
        write_shards(folder, arguments.pairs)
        keys = ["data.name=captions", f"data.path={folder}/*.tar", f"output_dir={run}", "output.heatmaps=0"]
        fast = ["bottleneck.steps=1", "bottleneck.noise_samples=1", "data.batch_size=32", "output.tensorboard_images=0"]
        meter.attach()
        start = time.perf_counter()
        run_command([*keys, *fast, "trainer.enable_progress_bar=false", *arguments.words])
        seconds = time.perf_counter() - start
        written = sum(part.stat().st_size for part in (run / "attributions").iterdir())
        parts = len(list((run / "attributions").iterdir()))
    report(meter, seconds, written, parts)


def report(meter: Meter, seconds: float, written: int, parts: int) -> None:
    """Print the measurements."""
    print(f"\nmachine: {describe(torch.device('cpu'))}")
    print(f"{meter.pairs} rows in {seconds:.0f} s: {meter.pairs / seconds:.0f} a second, {parts} files")
    print(f"{written / meter.pairs:.0f} bytes a row")
    print(f"outside the model: {1 - meter.inside / seconds:.1%} of the time")
    for pairs in (100, SETTLED, *range(20_000, meter.pairs, 20_000), meter.pairs):
        print(f"memory after {pairs:>7} pairs: {meter.at(min(pairs, meter.pairs)) / 2**20:.0f} MiB")
    most, settled = meter.largest(SETTLED), meter.at(SETTLED)
    print(
        f"peak of memory from {SETTLED} pairs on: {most / 2**20:.0f} MiB, "
        f"{most / settled - 1:+.1%} compared with {SETTLED} pairs"
    )


if __name__ == "__main__":
    main()
