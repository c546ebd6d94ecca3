"""Fixtures of the tests of downloads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from m2ib_lightning.pairs.urls import download
from m2ib_lightning.pairs.urls.hosts import Hosts
from tests.pairs.urls.site import Site


@pytest.fixture
def site() -> Iterator[Site]:
    opened = Site()
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits in seconds between tries, which are recorded and skipped."""
    seconds: list[float] = []
    monkeypatch.setattr(download, "sleep", seconds.append)
    monkeypatch.setattr(download, "HOSTS", Hosts())
    return seconds
