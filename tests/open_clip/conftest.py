"""OpenCLIP is optional: ``make test-open-clip`` installs it, and without it its tests are skipped."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("open_clip") is None:
    collect_ignore = ["cpu_build.py", "members.py"]  # --doctest-modules would import them
else:
    import tests.open_clip.cpu_build  # noqa: F401


@pytest.fixture(scope="session")
def member(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from the name of a member to its folder."""
    from tests.open_clip.members import make_folder

    folders: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in folders:
            folders[name] = make_folder(name, tmp_path_factory.mktemp("open_clip") / name)
        return folders[name]

    return folder
