"""A web server on this machine with programmable answers, and helpers for downloads from it."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from m2ib_lightning.errors import PairError
from m2ib_lightning.pairs.urls import addresses
from m2ib_lightning.pairs.urls.fetch import fetch
from m2ib_lightning.pairs.urls.url_settings import UrlSettings
from tests.pairs.shards.shards import jpeg

BODY = jpeg(7).ljust(2048, b"\0")
"""A picture of 2,048 bytes."""

Behaviour = Callable[["Handler"], None]

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs more loopback addresses than 127.0.0.1")


class Handler(BaseHTTPRequestHandler):
    """Answers with the server's route for the path, then closes the connection."""

    protocol_version = "HTTP/1.1"
    server: Site

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        self.server.headers.append(dict(self.headers.items()))
        self.close_connection = True
        with suppress(OSError):  # the client closed the connection, as it should
            self.server.routes[self.path](self)

    def send(self, status: int = 200, body: bytes = BODY, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class Site(ThreadingHTTPServer):
    """A server that records its requests."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), Handler)
        self.over = threading.Event()
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.connections = 0
        self.routes: dict[str, Behaviour] = {"/good.png": Handler.send, "/gone.png": lambda h: h.send(404)}
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def get_request(self) -> Any:
        self.connections += 1
        return super().get_request()

    def handle_error(self, *_: Any) -> None:
        pass

    def at(self, path: str, host: str | None = None) -> str:
        address, port = str(self.server_address[0]), self.server_address[1]
        return f"http://{host or address}:{port}{path}"

    def close(self) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()
        self.thread.join()


def settings(**changes: Any) -> UrlSettings:
    return UrlSettings(**{"allow": True, "allow_private": True, "timeout": 10.0, **changes})


def failure(url: str, **changes: Any) -> str:
    """The message of a download that fails."""
    with pytest.raises(PairError) as raised:
        fetch(url, settings(**changes))
    assert repr(url) in str(raised.value)
    return str(raised.value)


def in_turn(*behaviours: Behaviour) -> Behaviour:
    """One behaviour for each request; the last one repeats."""
    left = list(behaviours)

    def behave(handler: Handler) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(handler)

    return behave


def dripping_body(handler: Handler) -> None:
    handler.send(200, b"x", Content_Length="1000000")
    while not handler.server.over.wait(0.02):
        handler.wfile.write(b"x")


def make_public(monkeypatch: pytest.MonkeyPatch, *public: str) -> None:
    """Let only these addresses count as public."""
    monkeypatch.setattr(addresses, "is_public", lambda address: address in public)


def resolve_to(monkeypatch: pytest.MonkeyPatch, *answers: list[str] | OSError) -> list[str]:
    """Answer the host look-ups in turn with these addresses; return the list of the hosts that are looked up."""
    hosts: list[str] = []

    def look_up(host: str, port: int, **_: Any) -> list[Any]:
        hosts.append(host)
        answer = answers[min(len(hosts), len(answers)) - 1]
        if isinstance(answer, OSError):
            raise answer
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answer]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return hosts
