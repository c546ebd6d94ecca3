"""The script of a report's page: its syntax, and its functions without a document."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from m2ib_lightning.results.page_assets import FOLDER, SCRIPTS, script

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


@needs_node
def test_the_script_has_no_syntax_error(tmp_path: Path) -> None:
    path = tmp_path / "whole.js"
    path.write_text(script(), encoding="utf-8")
    done = subprocess.run(["node", "--check", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@needs_node
def test_the_functions_without_a_document() -> None:
    tests = Path(__file__).with_name("page_values.cjs")
    done = subprocess.run(["node", str(tests), str(FOLDER / "values.js")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == tests.read_text(encoding="utf-8").count('"() {')


def test_every_file_of_the_script_is_in_the_page() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {*SCRIPTS, "report.css"}
    assert all((FOLDER / name).read_text(encoding="utf-8") in script() for name in SCRIPTS)


def test_no_data_becomes_markup_by_the_script() -> None:
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser|setHTML|srcdoc"
    assert re.findall(forbidden, script()) == []
    assert re.findall(r"fetch\(|XMLHttpRequest|WebSocket|sendBeacon|import\(", script()) == []
    assert "</script" not in script().lower()
