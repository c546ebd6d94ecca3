"""The browser of the tests. playwright-core and axe-core are installed by npm into ``.browser``, which git ignores."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT

PACKAGES = {"playwright-core": "1.65.1", "axe-core": "4.14.1"}
FOLDER = ROOT / ".browser"
NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str:
    """Return the path of the browser; skip the test if there is none, or node is missing."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: the browser tests need it")
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None:
        pytest.skip(f"no browser is installed: the browser tests need one of {', '.join(NAMES)}")
    return found


def install() -> None:
    """Install the packages that drive the browser; skip the test where they can't be."""
    if all((FOLDER / "node_modules" / name / "package.json").is_file() for name in PACKAGES):
        return
    FOLDER.mkdir(exist_ok=True)
    wanted = [f"{name}@{version}" for name, version in PACKAGES.items()]
    command = ["npm", "install", "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(FOLDER)]
    try:
        done = subprocess.run([*command, *wanted], cwd=FOLDER, capture_output=True, text=True, timeout=180)
    except subprocess.TimeoutExpired:
        pytest.skip("npm did not install playwright-core and axe-core within 180 s")
    if done.returncode:
        pytest.skip(f"npm could not install {' and '.join(wanted)}: {done.stderr.strip()[-300:]}")


def check(script: str, *arguments: str | Path, timeout: float = 300) -> dict[str, Any]:
    """Run a script of this folder on pages; return what it prints last, which is JSON: each check with its error."""
    environment = os.environ | {"CHROMIUM": chromium(), "NODE_PATH": str(FOLDER / "node_modules")}
    install()
    command = ["node", str(Path(__file__).parent / script), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    outcome: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return outcome
