"""The examples and promises of CONTRIBUTING.md hold, and so do those of the CI and the Makefile."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import m2ib_lightning
from m2ib_lightning.datamodules.base import DATAMODULES
from m2ib_lightning.encoder.families import family
from m2ib_lightning.methods import METHODS
from tests import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
WORKFLOW: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(autouse=True)
def registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registries are global: what an example adds is gone after its test."""
    for registry in (METHODS, DATAMODULES, family._FAMILIES):
        monkeypatch.setattr(registry, "_items", dict(registry._items))


def run_example(title: str) -> dict[str, Any]:
    """Run the Python block under a heading and return its variables."""
    section = TEXT.split(f"\n## {title}\n")[1].partition("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    variables: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, f"CONTRIBUTING.md, {title}", "exec"), variables)
    return variables


def test_the_method_runs(capsys: pytest.CaptureFixture[str]) -> None:
    result = run_example("Add an attribution method")["result"]
    assert result.error is None
    assert result.image_saliency.min() > 0
    assert "(8, 8)" in capsys.readouterr().out
    assert result.tokens == ["a", "red", "circle"]
    assert "embedding_norm" in METHODS


def test_the_data_source_runs(capsys: pytest.CaptureFixture[str]) -> None:
    run_example("Add a data source")
    assert "[['a red square', 'a green square'], ['a blue square']]" in capsys.readouterr().out
    assert "colours" in DATAMODULES


def test_the_metric_runs() -> None:
    metric = run_example("Add a metric")["metric"]
    assert metric.compute() == torch.tensor(0.75)
    assert metric.left_out == 1


def test_the_model_family_runs() -> None:
    example = run_example("Add a model family")
    assert example["result"].error is None
    assert example["result"].image_saliency.max() > 0
    assert "mean-clip" in family._FAMILIES


@pytest.mark.parametrize("name", ["embedding_norm", "colours", "mean-clip"])
def test_the_examples_leave_nothing_registered(name: str) -> None:
    assert name not in METHODS
    assert name not in DATAMODULES
    assert name not in family._FAMILIES


def test_every_example_has_a_test() -> None:
    assert len(re.findall(r"```python", TEXT)) == 4


def test_the_tree_names_every_room() -> None:
    tree = re.findall(r"```text\n(.*?)```", TEXT, flags=re.DOTALL)[0]
    package = ROOT / "m2ib_lightning"
    for room in package.glob("*/__init__.py"):
        assert re.search(rf"\b{room.parent.name}\b", tree), room.parent.name


def make_targets() -> dict[str, str]:
    """Each target of the Makefile with its description."""
    makefile = (ROOT / "Makefile").read_text()
    return dict(re.findall(r"^([\w-]+):.*## (.+)$", makefile, flags=re.MULTILINE))


def test_make_help_lists_every_target() -> None:
    targets = make_targets()
    assert {"help", "demo", "test", "test-slow", "test-all", "lint"} <= set(targets)
    phony = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)[0].split()
    assert set(phony) == set(targets)
    done = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert {target: text for _, target, text in lines} == targets


def commands(text: str) -> set[str]:
    """The make targets that a text runs."""
    return set(re.findall(r"(?:^|run: |`)make ([\w-]+)", text, flags=re.MULTILINE))


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", ".github/workflows/ci.yml", ".github/pull_request_template.md"])
def test_the_targets_that_are_named_exist(name: str) -> None:
    named = commands((ROOT / name).read_text())
    assert {"test", "lint"} <= named
    assert named <= set(make_targets())


def test_ci_covers_the_supported_pythons_and_the_ends_of_the_versions() -> None:
    matrix = WORKFLOW["jobs"]["test"]["strategy"]["matrix"]
    classifiers = PYPROJECT["project"]["classifiers"]
    supported = [line.split(" :: ")[-1] for line in classifiers if re.search(r"Python :: 3\.\d+$", line)]
    assert matrix["python"] == supported
    assert f">={supported[0]}" == PYPROJECT["project"]["requires-python"]
    versions = {job["versions"]: (job["python"], job["constraints"]) for job in matrix["include"]}
    assert versions["lowest"][0] == supported[0]
    assert versions["newest"] == (supported[-1], "")
    assert (ROOT / matrix["constraints"][0]).exists()


@pytest.mark.parametrize("path", sorted((ROOT / ".github").glob("**/*.yml")), ids=lambda path: path.name)
def test_github_files_are_yaml(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_the_hooks_run_what_make_lint_runs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    entries = [hook["entry"] for hook in hooks]
    recipe = re.findall(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)[0]
    tools = re.findall(r"\$\(BIN\)/(ruff \w+|mypy)", recipe)
    assert len(tools) == len(entries) == 3
    for tool, entry in zip(tools, entries, strict=True):
        assert entry.startswith(f".venv/bin/{tool}")


def requirements() -> list[str]:
    """The direct requirements of pyproject.toml, those of the groups included."""
    project = PYPROJECT["project"]
    return [*project["dependencies"], *(name for group in project["optional-dependencies"].values() for name in group)]


def test_every_requirement_is_pinned() -> None:
    pins = {
        line.partition("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()
    }
    for requirement in requirements():
        assert re.split(r"[<>=!]", requirement)[0].lower() in pins, requirement


def imported_packages(path: Path) -> set[str]:
    """The top-level packages that a file imports, late imports included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names - set(sys.stdlib_module_names) - {"m2ib_lightning"}


def test_what_the_package_imports_is_declared() -> None:
    distributions = {
        "PIL": "pillow",
        "huggingface_hub": "huggingface-hub",
        "open_clip": "open-clip-torch",
        "yaml": "pyyaml",
        "sklearn": "scikit-learn",
        "typing_extensions": "typing-extensions",
    }
    declared = {re.split(r"[<>=!]", requirement)[0].lower() for requirement in requirements()}
    for path in (*(ROOT / "m2ib_lightning").glob("**/*.py"), *(ROOT / "datamodules").glob("*.py")):
        for name in imported_packages(path):
            assert distributions.get(name, name) in declared, (path, name)


def test_the_citation_has_the_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == m2ib_lightning.__version__
    assert citation["license"] == PYPROJECT["project"]["license"]
