"""Shared by all tests: no network, this process's rank, and the order.

Nothing heavy is imported here, because pytest's main process loads this file too, before its workers start.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # with more devices, a run in this process would start pytest again

import pytest


@pytest.fixture(autouse=True)
def rank() -> Iterator[None]:
    """Restore the rank of this process, which a test of another rank changes for all of Lightning."""
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    lightning: Any = rank_zero_only
    before = getattr(lightning, "rank", 0)
    yield
    lightning.rank = before


SLOW_SECONDS = 600
"""Time limit of a slow test without ``@pytest.mark.timeout``; that of the others is in pyproject.toml."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests/tasks and tests/run first: they have the longest modules, for which a worker would wait at the end.

    Slow tests get a longer time limit.
    """
    items.sort(key=lambda item: item.path, reverse=True)
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_SECONDS))
