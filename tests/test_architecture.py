"""The plan of the package: which room may import which, and that no file's name is used twice."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = "m2ib_lightning"
ROOT = Path(__file__).parents[1] / PACKAGE

ORDER = (
    ("cli", "app"),
    ("tasks",),
    ("evaluation",),
    ("finetuning",),
    ("datamodules", "api"),
    ("run",),
    ("methods",),
    ("models",),
    ("m2ib", "metrics"),
    ("results",),
    ("pairs", "encoder", "scenes"),
    ("registry", "files", "config"),
    ("errors",),
)
"""The rooms, the highest first. A module imports from its own room and from lower floors, never from a neighbour."""

PATHS = ("callbacks", "comparing", "families", "regions")
"""Modules at the root that only re-export a room's public names, under the path that documents use."""

FLOOR = {room: floor for floor, rooms in enumerate(reversed(ORDER)) for room in rooms}


def modules(root: Path) -> dict[str, Path]:
    """Every module of the package by its dotted name; ``datamodules`` is a symlink to the folder beside it."""
    files = (path for path in root.glob("**/*.py") if "__pycache__" not in path.parts)
    paths = {*files, *(root / "datamodules").glob("**/*.py")}  # glob does not follow the link on Python 3.13
    by_name = {}
    for path in sorted(paths):
        parts = path.relative_to(root.parent).with_suffix("").parts
        by_name[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return by_name


@cache
def imports(module: str, text: str, is_package: bool, names: frozenset[str]) -> list[str]:
    """The package's modules that a module with some text imports when it runs, late imports included."""
    return list(_imports(module, ast.parse(text), is_package, names))


def _imports(module: str, tree: ast.Module, is_package: bool, names: frozenset[str]) -> Iterator[str]:
    skipped = {id(node) for branch in ast.walk(tree) if is_for_types(branch) for node in ast.walk(branch)}
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == PACKAGE)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*parents, *([node.module] if node.module else [])])
            if source.split(".")[0] == PACKAGE:
                imported = [f"{source}.{alias.name}" for alias in node.names]
                yield from (name if name in names else source for name in imported)


def is_for_types(node: ast.AST) -> bool:
    """Whether a statement is ``if TYPE_CHECKING:``, whose imports do not happen."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def room(module: str) -> str:
    """The room of a module: the first name behind the package's, or nothing for the package itself."""
    return module.split(".")[1] if "." in module else ""


def arrows(root: Path) -> dict[tuple[str, str], set[str]]:
    """Imports from one room to another, by the two rooms."""
    crossings = defaultdict(set)
    by_name = modules(root)
    for module, path in by_name.items():
        text = path.read_text(encoding="utf-8")
        for target in imports(module, text, path.name == "__init__.py", frozenset(by_name)):
            if room(module) != room(target):
                crossings[room(module), room(target)].add(f"{module} -> {target}")
    return dict(crossings)


def upward(crossings: dict[tuple[str, str], set[str]]) -> list[str]:
    """The imports that do not point down; the root and the public paths are outside the house."""
    outside = {"", *PATHS}
    return sorted(
        line
        for (start, end), lines in crossings.items()
        for line in lines
        if (start not in outside and (end in outside or FLOOR[end] >= FLOOR[start]))
    )


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package, to be changed."""
    root = tmp_path_factory.mktemp("architecture") / PACKAGE
    for module in modules(ROOT).values():
        copy = root / module.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(module.read_text(encoding="utf-8"), encoding="utf-8")
    return root


def test_imports_point_down(copied: Path) -> None:
    assert upward(arrows(ROOT)) == []
    assert upward(arrows(copied)) == []


def test_every_room_has_a_floor() -> None:
    assert {room(module) for module in modules(ROOT)} == {"", *PATHS, *FLOOR}


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("m2ib/noise.py", "from m2ib_lightning.run.table import load_attributions"),
        ("pairs/pair.py", "def late() -> None:\n    import m2ib_lightning.tasks.attribute"),
        ("datamodules/base.py", "from m2ib_lightning.finetuning import IBClipModule"),
        ("encoder/towers.py", "from ..pairs import pair"),
        ("errors.py", "from m2ib_lightning import regions"),
    ],
)
def test_a_turned_arrow_is_found(file: str, line: str, copied: Path) -> None:
    turned = copied / file
    text = turned.read_text(encoding="utf-8")
    turned.write_text(f"{text}\n{line}\n", encoding="utf-8")
    try:
        assert len(upward(arrows(copied))) == 1
    finally:
        turned.write_text(text, encoding="utf-8")


def test_no_file_name_is_used_twice() -> None:
    counts = Counter(path.name for path in modules(ROOT).values() if path.name != "__init__.py")
    assert [name for name, count in counts.items() if count > 1] == []


def test_files_are_short_and_the_root_is_small() -> None:
    long = {module: len(path.read_text().splitlines()) for module, path in modules(ROOT).items()}
    assert {module: lines for module, lines in long.items() if lines >= 300} == {}
    tests = {path: len(path.read_text().splitlines()) for path in Path(__file__).parent.glob("**/*.py")}
    assert {path: lines for path, lines in tests.items() if lines >= 450} == {}
    assert len(list(ROOT.glob("*.py"))) <= 10
    assert len(list(ROOT.glob("*/__init__.py"))) <= 15
