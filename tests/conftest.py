"""Shared by all tests: no network, quick pictures and models, this process's rank, and the order.

Nothing heavy is imported here, because pytest's main process loads this file too, before its workers start.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
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


@pytest.fixture(scope="session", autouse=True)
def quick_models() -> Iterator[None]:
    """Read a folder's weights once in a process; later loads get a copy, unless a file in the folder has changed.

    The rest of a load, such as the processor and the checks, is done each time.
    """
    import torch

    from m2ib_lightning.models import classes

    class_of = classes.model_class
    first: dict[Any, Any] = {}

    class Reader:
        """Stands for a model's class where ``load_model`` reads its weights."""

        def __init__(self, kind: Any) -> None:
            self.kind = kind

        def from_pretrained(self, source: str, **options: Any) -> Any:
            files = [(file.name, file.stat()) for file in sorted(Path(source).glob("*"))]
            if torch.is_inference_mode_enabled() or not files:  # tensors of that mode can't be used elsewhere
                return self.kind.from_pretrained(source, **options)
            key = self.kind, source, tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in files)
            if key not in first:
                first[key] = self.kind.from_pretrained(source, **options)
                for old in list(first)[1:-MODELS_KEPT]:
                    del first[old]
            return deepcopy(first[key])

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(classes, "model_class", lambda config: Reader(class_of(config)))
        yield


MODELS_KEPT = 4
"""Number of models that ``quick_models`` keeps, which are tiny, beside the first."""

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
