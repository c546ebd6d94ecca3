"""Images at URLs, from a server on this machine."""

from __future__ import annotations

import hashlib
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from m2ib_lightning.errors import M2IBError, PairError
from m2ib_lightning.pairs import urls
from m2ib_lightning.pairs.urls import UrlSettings, fetch, fetch_all, is_url

BODY = bytes(range(256)) * 8

Behaviour = Callable[["Handler"], None]

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs more loopback addresses than 127.0.0.1")


class Handler(BaseHTTPRequestHandler):
    """Answers as the server's routes say, then hangs up."""

    protocol_version = "HTTP/1.1"
    server: Site

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        self.server.headers.append(dict(self.headers.items()))
        self.close_connection = True
        with suppress(OSError):  # the client hung up, as it should
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
    """A server that keeps what it was asked."""

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
        return f"http://{host or str(self.server_address[0])}:{self.server_address[1]}{path}"

    def close(self) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()
        self.thread.join()


@pytest.fixture
def site() -> Iterator[Site]:
    opened = Site()
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What would have been waited between tries."""
    waited: list[float] = []
    monkeypatch.setattr(urls, "sleep", waited.append)
    return waited


def settings(**changes: Any) -> UrlSettings:
    return UrlSettings(**{"allow": True, "allow_private": True, "timeout": 10.0, **changes})


def failure(url: str, **changes: Any) -> str:
    with pytest.raises(PairError) as raised:
        fetch(url, settings(**changes))
    assert repr(url) in str(raised.value)
    return str(raised.value)


def one_after_the_other(*behaviours: Behaviour) -> Behaviour:
    """The last stays."""
    left = list(behaviours)

    def behave(handler: Handler) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(handler)

    return behave


def public(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    monkeypatch.setattr(urls, "_is_public", lambda address: address in addresses)


def resolve(monkeypatch: pytest.MonkeyPatch, *answers: list[str] | OSError) -> list[str]:
    """Answer one look-up after the other with these addresses; returns the hosts that are asked for."""
    asked: list[str] = []

    def look_up(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        answer = answers[min(len(asked), len(answers)) - 1]
        if isinstance(answer, OSError):
            raise answer
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answer]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


def test_an_image_comes_as_it_is(site: Site) -> None:
    assert fetch(site.at("/good.png"), settings()) == BODY
    assert fetch(f" {site.at('/good.png')}\n", settings()) == BODY
    sent = {name.lower(): value for name, value in site.headers[0].items()}
    host = site.at("").removeprefix("http://")
    assert sent == {
        "host": host,
        "user-agent": "m2ib_lightning",
        "accept": "*/*",
        "accept-encoding": "identity",
        "connection": "close",
    }


def test_an_encoded_body_is_left_encoded(site: Site) -> None:
    site.routes["/packed"] = lambda h: h.send(body=b"packed", Content_Encoding="gzip")
    assert fetch(site.at("/packed"), settings()) == b"packed"


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/a b.png?q=x y#top", "/a%20b.png?q=x%20y"),
        ("/b\u00fccher%20\u732b.png", "/b%C3%BCcher%20%E7%8C%AB.png"),
        ("", "/"),
        ("?a=1&b=%2F", "/?a=1&b=%2F"),
    ],
)
def test_a_path_is_quoted_where_it_must_be(site: Site, path: str, sent: str) -> None:
    site.routes[sent] = Handler.send
    assert fetch(site.at(path), settings()) == BODY


def test_a_chunked_body_and_one_that_ends_with_the_connection(site: Site) -> None:
    def chunked(handler: Handler) -> None:
        handler.send(200, b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", Transfer_Encoding="chunked")

    def unbounded(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\nabcde")

    site.routes |= {"/chunked": chunked, "/unbounded": unbounded}
    assert fetch(site.at("/chunked"), settings()) == b"abcde"
    assert fetch(site.at("/unbounded"), settings()) == b"abcde"


def test_nothing_is_downloaded_unless_allowed(site: Site) -> None:
    with pytest.raises(PairError, match=r"images at URLs are only downloaded with data\.allow_urls=true"):
        fetch(site.at("/good.png"), UrlSettings())
    assert site.connections == 0


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://127.0.0.1/a.png", "only URLs of http and https are downloaded"),
        ("file:///etc/passwd", "only URLs of http and https are downloaded"),
        ("data:image/png;base64,AAAA", "only URLs of http and https are downloaded"),
        ("a.png", "only URLs of http and https are downloaded"),
        ("http:///a.png", "there is no host"),
        ("http://[::1/a.png", "not valid: ValueError: Invalid IPv6 URL"),
        ("http://127.0.0.1:99999/", "not valid: ValueError: Port out of range"),
        (f"http://{'a' * 64}.org/", "not valid: UnicodeError"),
        ("http://127.0.0.1/\ud800", "not valid: UnicodeEncodeError"),
        ("http://a\0b/", "not valid: InvalidURL"),
    ],
)
def test_a_url_that_is_none_is_refused(url: str, message: str, waits: list[float]) -> None:
    assert message in failure(url)
    assert not waits


def test_a_password_is_not_sent(site: Site) -> None:
    url = site.at("/good.png").replace("http://", "http://me:secret@")
    assert "a URL with a user or a password (at '127.0.0.1') is not downloaded" in failure(url)
    assert site.connections == 0


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "0x7f000001",
        "2130706433",
        "127.1",
        "0.0.0.0",
        "0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::]",
    ],
)
def test_this_machine_is_not_asked(site: Site, host: str) -> None:
    message = failure(site.at("/good.png", host), allow_private=False)
    assert "which is not public; with data.allow_private_urls=true" in message
    assert site.connections == 0


@pytest.mark.parametrize("host", ["169.254.169.254", "10.0.0.1", "192.168.1.1", "[fe80::1]", "224.0.0.1"])
def test_the_network_around_is_not_asked(host: str) -> None:
    began = time.monotonic()
    assert "is not public" in failure(f"http://{host}/latest/meta-data/", allow_private=False)
    assert time.monotonic() - began < 5  # no connection was waited for: that would take 10 s


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1"),
        *("::1", "::", "fe80::1", "fe80::1%1", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "ff0e::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "2002:7f00:1::1", "64:ff9b::10.0.0.1", "64:ff9b:1::1"),
        "2001::1",
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not urls._is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"]
)
def test_addresses_that_are_public(address: str) -> None:
    assert urls._is_public(address)


def test_a_host_is_looked_up_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    public(monkeypatch, "127.0.0.1")
    asked = resolve(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
    assert fetch(site.at("/good.png", "rebinding.invalid"), settings(allow_private=False)) == BODY
    assert asked == ["rebinding.invalid"]
    assert "127.0.0.2, which is not public" in failure(site.at("/", "rebinding.invalid"), allow_private=False)


def test_a_host_with_one_private_address_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    public(monkeypatch, "127.0.0.1")
    resolve(monkeypatch, ["127.0.0.1", "127.0.0.2"])
    assert "127.0.0.2, which is not public" in failure(site.at("/", "both.invalid"), allow_private=False)
    assert site.connections == 0


def test_proxies_are_not_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert fetch(site.at("/good.png"), settings()) == BODY


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "location", ["/good.png", "good.png", "?and=more", "//{host}/good.png", "http://{host}/good.png"]
)
def test_redirects_are_followed(site: Site, status: int, location: str) -> None:
    to = location.format(host=site.at("").removeprefix("http://"))
    site.routes |= {"/away": lambda h: h.send(status, Location=to), "/away?and=more": Handler.send}
    assert fetch(site.at("/away"), settings()) == BODY
    assert len(site.paths) == 2


def test_a_redirect_to_a_path_that_is_not_ascii(site: Site) -> None:
    raw = "/b\u00fc cher.png".encode().decode("latin-1")  # as UTF-8 is in a header
    site.routes |= {"/away": lambda h: h.send(302, Location=raw), "/b%C3%BC%20cher.png": Handler.send}
    assert fetch(site.at("/away"), settings()) == BODY


def test_five_redirects_are_followed_and_not_six(site: Site) -> None:
    for left in range(1, 7):
        to = f"/{left - 1}" if left > 1 else "/good.png"
        site.routes[f"/{left}"] = partial(Handler.send, status=302, Location=to)
    assert fetch(site.at("/5"), settings()) == BODY
    assert "there were more than 5 redirects" in failure(site.at("/6"))


def test_a_redirect_in_a_circle_ends(site: Site, waits: list[float]) -> None:
    site.routes["/round"] = lambda h: h.send(302, Location="/round")
    assert "there were more than 5 redirects" in failure(site.at("/round"))
    assert site.paths == ["/round"] * 6
    assert not waits


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/a", "data:,a", "gopher://127.0.0.1/"])
def test_a_redirect_to_another_scheme_is_refused(site: Site, to: str) -> None:
    site.routes["/away"] = lambda h: h.send(302, Location=to)
    assert f"only URLs of http and https are downloaded, not {to!r}" in failure(site.at("/away"))
    assert site.paths == ["/away"]


@linux
def test_a_redirect_to_a_private_address_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = Site("127.0.0.2")
    try:
        site.routes["/away"] = lambda h: h.send(302, Location=inside.at("/good.png"))
        public(monkeypatch, "127.0.0.1")
        assert "at the address 127.0.0.2, which is not public" in failure(site.at("/away"), allow_private=False)
        assert (site.paths, inside.connections) == (["/away"], 0)
        public(monkeypatch, "127.0.0.1", "127.0.0.2")
        assert fetch(site.at("/away"), settings(allow_private=False)) == BODY
        assert inside.paths == ["/good.png"]
    finally:
        inside.close()


def test_a_redirect_to_nowhere_is_a_status(site: Site) -> None:
    site.routes["/away"] = lambda h: h.send(302)
    assert "the server answered 302 Found" in failure(site.at("/away"))


def test_what_says_it_is_too_large_is_not_read(site: Site) -> None:
    site.routes["/large"] = lambda h: h.send(Content_Length="10000000000")
    assert "it is larger than 50,000,000 bytes; set data.url_max_bytes" in failure(site.at("/large"))


def test_the_limit_is_to_the_byte(site: Site) -> None:
    assert fetch(site.at("/good.png"), settings(max_bytes=len(BODY))) == BODY
    assert "it is larger than 2,047 bytes" in failure(site.at("/good.png"), max_bytes=len(BODY) - 1)


def test_a_body_without_an_end_is_cut_off(site: Site, waits: list[float]) -> None:
    written = []

    def endless(handler: Handler) -> None:
        handler.send(200, b"", Transfer_Encoding="chunked")
        while not handler.server.over.is_set():
            handler.wfile.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
            written.append(1 << 16)

    site.routes["/endless"] = endless
    assert "it is larger than 1,000,000 bytes" in failure(site.at("/endless"), max_bytes=1_000_000)
    assert len(site.paths) == 1
    assert sum(written) < 30_000_000  # what the buffers between the two hold


def test_a_body_that_ends_early_is_an_error(site: Site) -> None:
    site.routes["/cut"] = lambda h: h.send(Content_Length="4000")
    site.routes["/cut chunk"] = lambda h: h.send(200, b"10\r\nabc", Transfer_Encoding="chunked")
    site.routes["/cut%20chunk"] = site.routes["/cut chunk"]
    assert "the body ended early (3 tries; data.url_retries)" in failure(site.at("/cut"))
    assert "the body ended early (1 try; data.url_retries)" in failure(site.at("/cut chunk"), retries=0)


def test_a_body_of_nothing_is_an_error(site: Site) -> None:
    site.routes["/empty"] = lambda h: h.send(body=b"")
    assert "the server sent no bytes" in failure(site.at("/empty"))


def silent(handler: Handler) -> None:
    handler.server.over.wait(30)


def dripping_headers(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    while not handler.server.over.wait(0.02):
        handler.wfile.write(b"x")


def dripping_body(handler: Handler) -> None:
    handler.send(200, b"x", Content_Length="1000000")
    while not handler.server.over.wait(0.02):
        handler.wfile.write(b"x")


def dripping_redirect(handler: Handler) -> None:
    handler.server.over.wait(0.05)
    handler.send(302, Location=handler.path)


@pytest.mark.parametrize("slow", [silent, dripping_headers, dripping_body])
def test_a_slow_server_is_given_up(site: Site, slow: Behaviour) -> None:
    site.routes["/slow"] = slow
    others, began = set(threading.enumerate()), time.monotonic()
    message = failure(site.at("/slow"), timeout=0.3, retries=1)
    assert "it took longer than 0.3 s (data.url_timeout) (2 tries; data.url_retries)" in message
    assert 0.6 <= time.monotonic() - began < 3
    assert_no_thread_waits(others)  # for the server, which still drips


def assert_no_thread_waits(others: set[threading.Thread]) -> None:
    for thread in set(threading.enumerate()) - others:
        if "(work)" in thread.name:
            thread.join(5)
            assert not thread.is_alive()


def test_the_time_is_for_all_redirects_together(site: Site) -> None:
    site.routes["/slow"] = dripping_redirect
    assert "it took longer than 0.1 s" in failure(site.at("/slow"), timeout=0.1, retries=0)


def test_a_slow_handshake_is_given_up() -> None:
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
        others = set(threading.enumerate())
        assert "it took longer than 0.3 s" in failure(url, timeout=0.3, retries=0)
        assert_no_thread_waits(others)
        over.set()
        dripping.join()


def test_a_slow_resolver_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(30) and [])
    try:
        assert "it took longer than 0.2 s" in failure("http://slow.invalid/", timeout=0.2, retries=0)
    finally:
        over.set()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 501])
def test_a_lasting_status_is_not_tried_again(site: Site, status: int, waits: list[float]) -> None:
    site.routes["/bad"] = lambda h: h.send(status)
    message = failure(site.at("/bad"))
    assert f"could not be downloaded: the server answered {status} " in message
    assert "tries" not in message
    assert (len(site.paths), waits) == (1, [])


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_passing_status_is_tried_again(site: Site, status: int, waits: list[float]) -> None:
    site.routes["/busy"] = one_after_the_other(lambda h: h.send(status), lambda h: h.send(status), Handler.send)
    assert fetch(site.at("/busy"), settings()) == BODY
    assert waits == [0.5, 1.0]
    site.routes["/broken"] = lambda h: h.send(status)
    assert failure(site.at("/broken")).endswith("(3 tries; data.url_retries)")
    assert f"the server answered {status} " in failure(site.at("/broken"), retries=0)
    assert site.paths == ["/busy"] * 3 + ["/broken"] * 4


@pytest.mark.parametrize(("asked", "waited"), [("3", 3), ("0", 0.5), ("3600", 10), ("soon", 0.5), ("9" * 5000, 0.5)])
def test_the_server_says_how_long_to_wait(site: Site, asked: str, waited: float, waits: list[float]) -> None:
    site.routes["/busy"] = one_after_the_other(lambda h: h.send(429, Retry_After=asked), Handler.send)
    assert fetch(site.at("/busy"), settings()) == BODY
    assert waits == [waited]


def test_the_waits_stay_bounded(site: Site, waits: list[float]) -> None:
    site.routes["/broken"] = lambda h: h.send(500)
    failure(site.at("/broken"), retries=7)
    assert waits == [0.5, 1, 2, 4, 8, 10, 10]


def test_a_connection_that_breaks_is_tried_again(site: Site) -> None:
    site.routes["/flaky"] = one_after_the_other(lambda h: None, lambda h: h.send(Content_Length="9999"), Handler.send)
    assert fetch(site.at("/flaky"), settings()) == BODY
    site.routes["/silent"] = lambda h: None
    assert "the connection failed: Remote end closed connection" in failure(site.at("/silent"))


def test_a_refused_connection_is_tried_again(waits: list[float]) -> None:
    with socket.socket() as taken:  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        message = failure(f"http://127.0.0.1:{taken.getsockname()[1]}/a.png")
    assert "the connection failed: Connection refused (3 tries; data.url_retries)" in message
    assert waits == [0.5, 1.0]


def test_the_next_address_is_tried_within_one_try(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, ["127.0.0.3", "127.0.0.1"])  # nothing listens at the first
    assert fetch(site.at("/good.png", "both.invalid"), settings(retries=0)) == BODY


@linux
def test_a_silent_address_leaves_time_for_the_next(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.3", site.server_address[1]), backlog=0) as full, socket.socket() as first:
        first.connect(full.getsockname())  # the queue is full: the next is not answered
        resolve(monkeypatch, ["127.0.0.3", "127.0.0.1"])
        assert fetch(site.at("/good.png", "both.invalid"), settings(timeout=1.0, retries=0)) == BODY


def test_the_answer_has_all_the_time_that_is_left(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve(monkeypatch, ["127.0.0.1", "127.0.0.2"])
    site.routes["/late.png"] = lambda h: h.send() if not h.server.over.wait(1.1) else None
    assert fetch(site.at("/late.png", "both.invalid"), settings(timeout=2.0, retries=0)) == BODY


@pytest.mark.parametrize(("number", "looked_up"), [(socket.EAI_NONAME, 1), (socket.EAI_AGAIN, 3)])
def test_a_host_that_is_not_found(number: int, looked_up: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = resolve(monkeypatch, socket.gaierror(number, "not known"))
    assert "its host was not found: not known" in failure("http://nowhere.invalid/a.png")
    assert asked == ["nowhere.invalid"] * looked_up


def test_what_is_not_http_is_not_tried_again(site: Site, waits: list[float]) -> None:
    site.routes["/odd"] = lambda h: h.wfile.writelines([b"SSH-2.0-OpenSSH\r\n"])
    assert "the URL or its server's answer is not valid: BadStatusLine" in failure(site.at("/odd"))
    assert not waits


def test_tls_where_there_is_none_is_an_error(site: Site, waits: list[float]) -> None:
    assert "the TLS connection failed: " in failure(site.at("/good.png").replace("http", "https"))
    assert not waits


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
def test_a_certificate_must_be_vouched_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ["-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "cert"), "-days", "2", "-subj", "/CN=elsewhere"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    subprocess.run(["openssl", "req", "-x509", "-nodes", *names, *made], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    site = Site()
    try:
        site.socket = context.wrap_socket(site.socket, server_side=True, do_handshake_on_connect=False)
        site.routes["/slow"] = dripping_body
        url = site.at("/good.png").replace("http", "https")
        assert "the TLS connection failed: " in failure(url)
        assert "certificate" in failure(url)
        assert site.paths == []
        trusting = ssl.create_default_context(cafile=str(tmp_path / "cert"))
        monkeypatch.setattr(urls, "_tls", lambda: trusting)
        assert fetch(url, settings()) == BODY
        wrong_name = url.replace("127.0.0.1", "localhost")
        assert "certificate" in failure(wrong_name)
        slow = url.replace("good.png", "slow")
        assert "it took longer than 0.3 s" in failure(slow, timeout=0.3, retries=0)
    finally:
        site.close()


def test_what_was_downloaded_is_kept(tmp_path: Path) -> None:
    site, cache = Site(), tmp_path / "deep" / "cache"
    url = site.at("/good.png")
    try:
        assert fetch(url, settings(cache=cache)) == BODY
    finally:
        site.close()
    assert fetch(f"{url} ", settings(cache=cache, allow_private=False, retries=0)) == BODY
    assert site.paths == ["/good.png"]
    name = hashlib.sha256(url.encode()).hexdigest()
    assert [path for path in cache.rglob("*") if path.is_file()] == [cache / name[:2] / name]
    with pytest.raises(PairError, match=r"data\.allow_urls=true"):
        fetch(url, UrlSettings(cache=cache))


def test_a_failure_is_not_kept(site: Site, tmp_path: Path) -> None:
    site.routes["/late.png"] = one_after_the_other(lambda h: h.send(404), Handler.send)
    assert "404" in failure(site.at("/late.png"), cache=tmp_path)
    assert not list(tmp_path.iterdir())
    assert fetch(site.at("/late.png"), settings(cache=tmp_path)) == BODY


def test_a_cache_that_cannot_be_written_warns_once(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls, "_unwarned", threading.Lock())
    (tmp_path / "file").touch()
    unusable = settings(cache=tmp_path / "file" / "cache")
    with pytest.warns(UserWarning, match=r"images are not kept: .* in data\.url_cache can't be used") as warned:
        assert fetch_all([site.at("/good.png"), site.at("/gone.png")], unusable)[0] == BODY
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fetch(site.at("/good.png"), unusable) == BODY


def test_the_order_is_kept_and_failures_have_their_place(site: Site) -> None:
    site.routes |= {f"/{i}": partial(Handler.send, body=b"%d" % i) for i in range(20)}
    asked = [site.at(f"/{i}") for i in range(20)] + [site.at("/gone.png"), "ftp://a/b", site.at("/3")]
    outcomes = fetch_all(asked, settings(connections=4))
    assert outcomes[:20] == [b"%d" % i for i in range(20)]
    assert outcomes[22] == b"3"
    assert "the server answered 404 Not Found" in str(outcomes[20])
    assert "only URLs of http and https" in str(outcomes[21])
    assert all(isinstance(outcome, PairError) for outcome in outcomes[20:22])
    assert len(site.paths) == 21  # /3 once
    assert fetch_all([], settings()) == []


def test_connections_are_bounded(site: Site) -> None:
    together, lock = threading.Barrier(2), threading.Lock()
    now, most = 0, 0

    def counted(handler: Handler) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        together.wait(10)  # there are two at once
        handler.server.over.wait(0.02)  # and time for a third
        with lock:
            now -= 1
        handler.send()

    site.routes = {f"/{i}": counted for i in range(8)}
    assert fetch_all([site.at(f"/{i}") for i in range(8)], settings(connections=2)) == [BODY] * 8
    assert most == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timeout": 0}, "data.url_timeout must be in seconds, above 0 and at most 86400, got 0"),
        ({"timeout": float("nan")}, "data.url_timeout"),
        ({"timeout": float("inf")}, "data.url_timeout"),
        ({"timeout": True}, "data.url_timeout"),
        ({"timeout": "20"}, "data.url_timeout"),
        ({"max_bytes": 0}, "data.url_max_bytes must be a whole number of at least 1, got 0"),
        ({"max_bytes": 1e6}, "data.url_max_bytes"),
        ({"retries": -1}, "data.url_retries must be a whole number from 0 to 100, got -1"),
        ({"retries": 101}, "data.url_retries"),
        ({"connections": 0}, "data.url_connections must be a whole number of at least 1, got 0"),
        ({"cache": Path(__file__)}, "data.url_cache must be a folder, or not exist yet"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(M2IBError) as raised:
        UrlSettings(**changes)
    assert message in str(raised.value)


def test_what_is_a_url() -> None:
    assert all(map(is_url, ["http://a", "HTTPS://a/b", "s3://bucket/a.png", " file:///a", "git+ssh://a"]))
    assert not any(map(is_url, ["a.png", "/a//b", "C://a.png", "C:\\a.png", "data:,a", "://a", "1a://b", ""]))
