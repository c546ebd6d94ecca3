"""The wheel is complete: installed elsewhere, the command works outside the repository."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests import ROOT


@pytest.mark.slow
def test_a_wheel_runs_outside_the_repository(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    files = ("py.typed", "configs/demo.yaml", "datamodules/captions.py", "models/scenes/model.safetensors")
    for name in (*files, "results/page/report.css", "results/page/report.js", "app/app.css"):
        assert f"m2ib_lightning/{name}" in names
    assert not [name for name in names if name.startswith(("tests/", "datamodules/", "configs/"))]

    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    script = site / "bin" / "m2ib-fit"
    where = tmp_path / "elsewhere"
    where.mkdir()
    environment = {"PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    command = [sys.executable, str(script), "--config", "demo", "data.limit=2"]
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 pairs explained" in done.stdout
    code = "import m2ib_lightning; print(m2ib_lightning.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=where, env=environment, capture_output=True, text=True)
    assert str(site) in done.stdout
