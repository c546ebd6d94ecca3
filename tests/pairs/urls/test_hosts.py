"""A host that fails again and again is left alone for a while."""

from __future__ import annotations

import socket
import warnings
from typing import Any

import pytest

from m2ib_lightning.errors import PairError
from m2ib_lightning.pairs.urls import hosts
from m2ib_lightning.pairs.urls.fetch import fetch, fetch_all
from m2ib_lightning.pairs.urls.hosts import MAX_FAILURES, MAX_PAUSE, PAUSE
from tests.pairs.urls.site import BODY, Behaviour, Handler, Site, failure, resolve_to, settings


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of the hosts, as a list of one number that the tests change."""
    now = [1000.0]
    monkeypatch.setattr(hosts, "monotonic", lambda: now[0])
    return now


def busy(handler: Handler) -> None:
    handler.send(503)


def cut(handler: Handler) -> None:
    handler.send(200, b"x", Content_Length="10")


def closed(handler: Handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("behaviour", [busy, cut, closed])
def test_a_thousand_urls_of_a_dead_host_cost_a_few_requests(site: Site, behaviour: Behaviour, clock: Any) -> None:
    site.routes = {f"/{k}.png": behaviour for k in range(1000)}
    with pytest.warns(UserWarning, match="failed 10 times in a row .* and is left alone for 60 s or more") as warned:
        outcomes = fetch_all([site.at(f"/{k}.png") for k in range(1000)], settings(connections=4, retries=1))
    assert len(warned) == 1
    assert all(isinstance(outcome, PairError) for outcome in outcomes)
    assert len(site.paths) <= 2 * (MAX_FAILURES + 4)
    assert "was not downloaded: its host" in str(outcomes[-1])
    assert "is left alone for 60 s more; resume=true with retry_failed=true asks it again" in str(outcomes[-1])


def fail(site: Site, times: int, path: str = "/busy") -> None:
    site.routes["/busy"] = busy
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(times):
            failure(site.at(path), retries=0)


def test_nine_failures_and_a_success_begin_anew(site: Site, clock: list[float]) -> None:
    for _ in range(3):
        fail(site, MAX_FAILURES - 1)
        assert fetch(site.at("/good.png"), settings()) == BODY
    fail(site, MAX_FAILURES)
    assert "is left alone" in failure(site.at("/good.png"))


def test_an_answer_that_the_picture_is_gone_is_no_failure_of_the_host(site: Site, clock: list[float]) -> None:
    fail(site, 3 * MAX_FAILURES, "/gone.png")
    assert fetch(site.at("/good.png"), settings()) == BODY


def test_after_a_pause_one_download_tries_the_host(site: Site, clock: list[float]) -> None:
    fail(site, MAX_FAILURES)
    pause = PAUSE
    for _ in range(6):
        asked = len(site.paths)
        clock[0] += pause - 1
        assert "is left alone for 1 s more" in failure(site.at("/busy"))
        clock[0] += 2
        fail(site, 2)
        assert len(site.paths) == asked + 1
        pause = min(2 * pause, MAX_PAUSE)
    clock[0] += pause
    assert fetch(site.at("/good.png"), settings()) == BODY
    fail(site, MAX_FAILURES - 1)
    assert fetch(site.at("/good.png"), settings()) == BODY


def test_other_hosts_go_on(site: Site, clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    other = Site()
    try:
        fail(site, MAX_FAILURES)
        assert fetch(other.at("/good.png"), settings()) == BODY
    finally:
        other.close()


def test_a_host_without_an_address_is_looked_up_ten_times(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = resolve_to(monkeypatch, socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    with pytest.warns(UserWarning, match="Name or service not known"):
        outcomes = fetch_all([f"http://gone.invalid/{k}.png" for k in range(50)], settings(connections=1))
    assert len(looked_up) == MAX_FAILURES
    assert "its host was not found" in str(outcomes[0])
    assert "is left alone" in str(outcomes[-1])


def test_what_a_server_says_is_escaped(site: Site, clock: list[float]) -> None:
    def answer(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 503 \x1b[31mred\x9b" + b"x" * 1000 + b"\r\n\r\n")

    site.routes = {"/busy" + "?" * k: answer for k in range(MAX_FAILURES)}
    with pytest.warns(UserWarning, match="the server answered 503 ") as warned:
        outcomes = fetch_all([site.at("/busy" + "?" * k) for k in range(MAX_FAILURES)], settings(retries=0))
    for text in (str(outcomes[0]), str(warned[0].message)):
        assert text.isprintable()
        assert "x" * 81 not in text
