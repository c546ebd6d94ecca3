"""Time limits and retries of one download."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

import pytest

from m2ib_lightning.pairs.urls.fetch import fetch
from tests.pairs.urls.site import (
    BODY,
    Behaviour,
    Handler,
    Site,
    dripping_body,
    failure,
    in_turn,
    linux,
    resolve_to,
    settings,
)


def silent(handler: Handler) -> None:
    handler.server.over.wait(30)


def dripping_headers(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    while not handler.server.over.wait(0.02):
        handler.wfile.write(b"x")


def dripping_redirect(handler: Handler) -> None:
    handler.server.over.wait(0.05)
    handler.send(302, Location=handler.path)


@pytest.mark.parametrize("slow", [silent, dripping_headers, dripping_body])
def test_a_slow_server_times_out(site: Site, slow: Behaviour) -> None:
    site.routes["/slow"] = slow
    threads, began = set(threading.enumerate()), time.monotonic()
    message = failure(site.at("/slow"), timeout=0.2, retries=1)
    assert "it took longer than 0.2 s (data.url_timeout) (2 tries; data.url_retries)" in message
    assert 0.4 <= time.monotonic() - began < 30  # the server would never end
    assert_threads_end(threads)  # although the server still drips


def assert_threads_end(before: set[threading.Thread]) -> None:
    """The threads of attempts that started since ``before`` end."""
    for thread in set(threading.enumerate()) - before:
        if "(work)" in thread.name:
            thread.join(30)
            assert not thread.is_alive()


def test_redirects_share_one_time_limit(site: Site) -> None:
    site.routes["/slow"] = dripping_redirect
    assert "it took longer than 0.1 s" in failure(site.at("/slow"), timeout=0.1, retries=0)


def test_a_slow_handshake_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        over = threading.Event()

        def drip() -> None:
            with listening.accept()[0] as accepted, suppress(OSError):
                accepted.sendall(b"\x16\x03\x03\x3e\x80")  # a handshake record of 16,000 bytes
                while not over.wait(0.02):
                    accepted.sendall(b"x")

        dripping = threading.Thread(target=drip)
        dripping.start()
        url = f"https://127.0.0.1:{listening.getsockname()[1]}/a.png"
        threads = set(threading.enumerate())
        assert "it took longer than 0.3 s" in failure(url, timeout=0.3, retries=0)
        assert_threads_end(threads)
        over.set()
        dripping.join()


def test_a_slow_resolver_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(30) and [])
    try:
        assert "it took longer than 0.2 s" in failure("http://slow.invalid/", timeout=0.2, retries=0)
    finally:
        over.set()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 501])
def test_permanent_statuses_are_not_retried(site: Site, status: int, waits: list[float]) -> None:
    site.routes["/bad"] = lambda h: h.send(status)
    message = failure(site.at("/bad"))
    assert f"could not be downloaded: the server answered {status} " in message
    assert "tries" not in message
    assert (len(site.paths), waits) == (1, [])


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_temporary_statuses_are_retried(site: Site, status: int, waits: list[float]) -> None:
    site.routes["/busy"] = in_turn(lambda h: h.send(status), lambda h: h.send(status), Handler.send)
    assert fetch(site.at("/busy"), settings()) == BODY
    assert waits == [0.5, 1.0]
    site.routes["/broken"] = lambda h: h.send(status)
    assert failure(site.at("/broken")).endswith("(3 tries; data.url_retries)")
    assert f"the server answered {status} " in failure(site.at("/broken"), retries=0)
    assert site.paths == ["/busy"] * 3 + ["/broken"] * 4


@pytest.mark.parametrize(
    ("retry_after", "waited"), [("3", 3), ("0", 0.5), ("3600", 10), ("soon", 0.5), ("9" * 5000, 0.5)]
)
def test_retry_after_is_respected_within_bounds(
    site: Site, retry_after: str, waited: float, waits: list[float]
) -> None:
    site.routes["/busy"] = in_turn(lambda h: h.send(429, Retry_After=retry_after), Handler.send)
    assert fetch(site.at("/busy"), settings()) == BODY
    assert waits == [waited]


def test_the_waits_between_retries_are_bounded(site: Site, waits: list[float]) -> None:
    site.routes["/broken"] = lambda h: h.send(500)
    failure(site.at("/broken"), retries=7)
    assert waits == [0.5, 1, 2, 4, 8, 10, 10]


def test_a_broken_connection_is_retried(site: Site) -> None:
    site.routes["/flaky"] = in_turn(lambda h: None, lambda h: h.send(Content_Length="9999"), Handler.send)
    assert fetch(site.at("/flaky"), settings()) == BODY
    site.routes["/silent"] = lambda h: None
    assert "the connection failed: Remote end closed connection" in failure(site.at("/silent"))


def test_a_refused_connection_is_retried(waits: list[float]) -> None:
    with socket.socket() as taken:  # bound but not listening
        taken.bind(("127.0.0.1", 0))
        message = failure(f"http://127.0.0.1:{taken.getsockname()[1]}/a.png")
    assert "the connection failed: Connection refused (3 tries; data.url_retries)" in message
    assert waits == [0.5, 1.0]


def test_one_attempt_tries_every_address(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, ["127.0.0.3", "127.0.0.1"])  # nothing listens at the first
    assert fetch(site.at("/good.png", "both.invalid"), settings(retries=0)) == BODY


@linux
def test_a_silent_address_leaves_time_for_the_next(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.3", site.server_address[1]), backlog=0) as full, socket.socket() as first:
        first.connect(full.getsockname())  # the queue is full: the next connection is not answered
        resolve_to(monkeypatch, ["127.0.0.3", "127.0.0.1"])
        assert fetch(site.at("/good.png", "both.invalid"), settings(timeout=1.0, retries=0)) == BODY


@pytest.mark.slow
def test_the_answer_may_take_all_remaining_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, ["127.0.0.1", "127.0.0.2"])
    site.routes["/late.png"] = lambda h: h.send() if not h.server.over.wait(1.2) else None
    assert fetch(site.at("/late.png", "both.invalid"), settings(timeout=2.0, retries=0)) == BODY


@pytest.mark.parametrize(("number", "looked_up"), [(socket.EAI_NONAME, 1), (socket.EAI_AGAIN, 3)])
def test_an_unknown_host(number: int, looked_up: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = resolve_to(monkeypatch, socket.gaierror(number, "not known"))
    assert "its host was not found: not known" in failure("http://nowhere.invalid/a.png")
    assert hosts == ["nowhere.invalid"] * looked_up
