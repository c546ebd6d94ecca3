"""Shared by all tests: no network, quick pictures, this process's rank, and the order.

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


@pytest.fixture(scope="session", autouse=True)
def quick_pictures() -> Iterator[None]:
    """Compress PNG files less, which is most of the work of a run over a few pairs; their pixels are the same."""
    from PIL import Image

    Image.init()
    save = Image.SAVE["PNG"]

    def save_quickly(image: Image.Image, file: Any, name: Any) -> None:
        image.encoderinfo.setdefault("compress_level", 1)
        save(image, file, name)

    Image.register_save("PNG", save_quickly)
    yield
    Image.register_save("PNG", save)


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
