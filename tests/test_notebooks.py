"""The notebooks: committed without outputs and without paths of a machine, and they run with the bundled model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from m2ib_lightning.results.notebook import MOST
from tests import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ABSOLUTE = re.compile(r"""(?:^|[\s"'=(`])(?:/(?:home|root|tmp|work|mnt|Users|opt|var|usr)\b|~/|[A-Za-z]:\\)""")


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def test_there_are_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["grounding", "quickstart", "your_model"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs_and_paths(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert path.stat().st_size < 20_000
    for cell in notebook["cells"]:
        assert ABSOLUTE.search(source(cell)) is None, source(cell)
        assert cell["metadata"] == {}
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert notebook["cells"][0]["cell_type"] == "markdown"


@pytest.mark.parametrize("line", ["open('/home/me/cat.jpg')", "~/cat.jpg", r"C:\cat.jpg", "/tmp/x"])
def test_a_path_of_a_machine_would_be_found(line: str) -> None:
    assert ABSOLUTE.search(line)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbclient and ipykernel: pip install nbclient ipykernel")
    pytest.importorskip("ipykernel", reason="needs nbclient and ipykernel: pip install nbclient ipykernel")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel: pip install nbclient ipykernel")
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=":")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    pages = [page for cell in notebook.cells if cell.cell_type == "code" for page in pages_of(cell)]
    assert len(pages) >= 3
    assert all(page.startswith('<div class="m2ib"') for page in pages)
    assert max(map(len, pages)) < MOST
    assert sum(map(len, pages)) < 300_000
    assert not [path for path in tmp_path.iterdir() if path.suffix not in (".png", ".html", "")]


def pages_of(cell: Any) -> list[str]:
    """The HTML that a cell displays."""
    return [output.data["text/html"] for output in cell.outputs if "text/html" in output.get("data", {})]
