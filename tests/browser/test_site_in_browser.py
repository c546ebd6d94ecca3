"""The documentation site in a browser. ``make docs`` builds it first."""

from __future__ import annotations

from typing import Any

import pytest

from tests import ROOT
from tests.browser.browser import check

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SITE = ROOT / "site"
CHECKS = ("search", "search on a phone", "phone", "dark", "equations")
"""The checks of ``site_checks.cjs``."""


@pytest.fixture(scope="module")
def outcome() -> dict[str, Any]:
    """What became of each check."""
    if not (SITE / "index.html").is_file():
        pytest.skip("the site is not built: run make docs")
    return check("site_checks.cjs", SITE, timeout=800)


@pytest.mark.parametrize("name", CHECKS)
def test_the_site(name: str, outcome: dict[str, Any]) -> None:
    assert outcome[name] is None, outcome[name]


def test_every_check_is_listed(outcome: dict[str, Any]) -> None:
    assert list(outcome) == list(CHECKS)
