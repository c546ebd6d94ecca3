"""The wheel is complete: installed elsewhere, the command works outside the repository. Releases have one version."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import check_release
import pytest

import m2ib_lightning
from tests import ROOT

MEBIBYTES = 12
"""Largest size of the wheel."""


def packaged() -> set[str]:
    """Every file of the package in the checkout, those behind its two symlinks included."""
    folder = ROOT / "m2ib_lightning"
    roots = [folder, *(folder / name for name in ("configs", "datamodules"))]
    files = {path for root in roots for path in root.glob("**/*") if path.is_file() and path.suffix != ".pyc"}
    return {path.relative_to(ROOT).as_posix() for path in files}


def test_the_package_is_small() -> None:
    sizes = {name: (ROOT / name).stat().st_size for name in packaged()}
    assert sum(sizes.values()) < MEBIBYTES * 2**20, sorted(sizes.items(), key=lambda item: -item[1])[:3]


def test_a_release_has_one_version(tmp_path: Path) -> None:
    version = m2ib_lightning.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", version)
    (tmp_path / "m2ib_lightning").mkdir()
    for name in ("m2ib_lightning/__init__.py", "CITATION.cff"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    changes = "# Changelog\n\n## [Unreleased]\n\n## [{}] - 2026-01-01\n\n## [0.0.1] - 2025-01-01\n"
    (tmp_path / "CHANGELOG.md").write_text(changes.format(version))
    assert check_release.disagreements(f"v{version}", tmp_path) == []
    assert len(check_release.disagreements("v99.0.0", tmp_path)) == 3
    (tmp_path / "CHANGELOG.md").write_text(changes.format("77.0.0"))
    (line,) = check_release.disagreements(f"v{version}", tmp_path)
    assert line == f"CHANGELOG.md has version 77.0.0, and the tag is v{version}"


def test_the_image_gets_all_that_the_package_needs() -> None:
    lines = (ROOT / "docker" / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    allowed = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), flags=re.MULTILINE)
    assert sorted(copied) == sorted(allowed)
    assert all((ROOT / name).exists() for name in copied)
    assert {"configs", "datamodules", "m2ib_lightning", "pyproject.toml", "README.md", "LICENSE"} <= set(copied)


@pytest.mark.slow
def test_a_wheel_runs_outside_the_repository(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if name.startswith("m2ib_lightning/")} == packaged()
    assert wheel.stat().st_size < MEBIBYTES * 2**20
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
