"""OpenCLIP is optional: without it these tests are skipped, except those of its absence."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

_INSTALLED = find_spec("open_clip") is not None
if _INSTALLED:
    import tests.open_clip.cpu_build  # noqa: F401

collect_ignore = ["test_absence.py"] if _INSTALLED else []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not _INSTALLED and "open_clip" in item.path.parts and item.path.name != "test_absence.py":
            item.add_marker(pytest.mark.skip(reason="OpenCLIP is not installed: make test-open-clip installs it"))
