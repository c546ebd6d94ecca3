"""Memory does not grow with the number of pairs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

MEASURED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak_memory(pairs: int, run: Path) -> int:
    """Of a whole run with the bundled model, one step, one draw."""
    given = [f"data.limit={pairs}", "bottleneck.steps=1", "bottleneck.noise_samples=1", f"output_dir={run}"]
    command = [sys.executable, "-c", MEASURED, sys.executable, "fit.py", *given, "trainer.enable_progress_bar=false"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    code, peak = map(int, done.stdout.split())
    assert code == 0
    return peak


@pytest.mark.slow
def test_ten_thousand_pairs_take_the_memory_of_a_hundred(tmp_path: Path) -> None:
    few, many = (peak_memory(pairs, tmp_path / str(pairs)) for pairs in (100, 10_000))
    print(f"peak memory: 100 pairs {few / 1024:.0f} MiB, 10,000 pairs {many / 1024:.0f} MiB")
    assert many < 1.05 * few
