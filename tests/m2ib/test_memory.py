"""Memory of real processes: it does not grow with the number of pairs, and running out of it changes no result."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

MEASURED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak_memory(pairs: int, run: Path) -> int:
    """Return the peak memory of a run with the bundled model, one step and one draw."""
    keys = [f"data.limit={pairs}", "bottleneck.steps=1", "bottleneck.noise_samples=1", f"output_dir={run}"]
    command = [sys.executable, "-c", MEASURED, sys.executable, "fit.py", *keys, "trainer.enable_progress_bar=false"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    code, peak = map(int, done.stdout.split())
    assert code == 0
    return peak


@pytest.mark.slow
def test_ten_thousand_pairs_take_the_memory_of_a_hundred(tmp_path: Path) -> None:
    few, many = (peak_memory(pairs, tmp_path / str(pairs)) for pairs in (100, 10_000))
    print(f"peak memory: 100 pairs {few / 1024:.0f} MiB, 10,000 pairs {many / 1024:.0f} MiB")
    assert many < 1.05 * few


LIMITED = """
import resource, sys, warnings
import torch
from m2ib_lightning.m2ib.explainer import Explainer, resolve
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.encoder.towers import Encoder
from tests.tiny import make_batch, make_model, make_pairs

def used():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()

torch.set_num_threads(1)
model = make_model("clip", width=240, image=96, patch=8)
encoder = Encoder(model)
pairs = make_pairs(model, [3, 5, 4, 6])

def run(pairs, max_rows):
    settings = {"steps": 2, "noise_samples": 10, "max_rows": max_rows, "image": {"layer": 0}}
    made = Explainer(encoder, resolve(BottleneckSettings().override(settings), encoder))
    with made.at_work():
        results = made(make_batch(model, pairs), made.optimizer())
    return results

expected = run(pairs, 200)
limit = used() + 2**20 * int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
with warnings.catch_warnings(record=True) as caught:
    results = run(pairs, 10**9)
for a, b in zip(results, expected, strict=True):
    assert a.error is None, a.error
    assert abs(a.image.saliency - b.image.saliency).max() <= 1e-5 * b.image.saliency.max()
print("repeated" if any("out of memory" in str(w.message) for w in caught) else "fitted")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory limits are those of Linux")
def test_memory_that_really_runs_out() -> None:
    command = [sys.executable, "-c", LIMITED, "40"]  # MiB; the whole batch in one chunk needs some 120 MB more
    child = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert child.stdout.split() == ["repeated"], child.stderr
