"""One download: request, redirects, size limit and TLS."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from functools import partial
from pathlib import Path

import pytest

from m2ib_lightning.pairs.urls import download
from m2ib_lightning.pairs.urls.fetch import fetch
from tests.pairs.urls.site import BODY, Handler, Site, dripping_body, failure, settings


def test_the_body_and_the_request_headers(site: Site) -> None:
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


def test_an_encoded_body_is_not_decoded(site: Site) -> None:
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
def test_a_path_is_quoted_once(site: Site, path: str, sent: str) -> None:
    site.routes[sent] = Handler.send
    assert fetch(site.at(path), settings()) == BODY


def test_a_chunked_body_and_a_body_without_a_length(site: Site) -> None:
    def chunked(handler: Handler) -> None:
        handler.send(200, b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", Transfer_Encoding="chunked")

    def unbounded(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\nabcde")

    site.routes |= {"/chunked": chunked, "/unbounded": unbounded}
    assert fetch(site.at("/chunked"), settings()) == b"abcde"
    assert fetch(site.at("/unbounded"), settings()) == b"abcde"


@pytest.mark.parametrize(
    "location", ["/good.png", "good.png", "?and=more", "//{host}/good.png", "http://{host}/good.png"]
)
def test_redirects_are_followed(site: Site, location: str) -> None:
    to = location.format(host=site.at("").removeprefix("http://"))
    for status in (301, 302, 303, 307, 308):
        site.routes |= {"/away": partial(Handler.send, status=status, Location=to), "/away?and=more": Handler.send}
        site.paths.clear()
        assert fetch(site.at("/away"), settings()) == BODY
        assert len(site.paths) == 2


def test_a_redirect_to_a_path_that_is_not_ascii(site: Site) -> None:
    raw = "/b\u00fc cher.png".encode().decode("latin-1")  # UTF-8 as it appears in a decoded header
    site.routes |= {"/away": lambda h: h.send(302, Location=raw), "/b%C3%BC%20cher.png": Handler.send}
    assert fetch(site.at("/away"), settings()) == BODY


def test_five_redirects_are_followed_but_not_six(site: Site) -> None:
    for left in range(1, 7):
        to = f"/{left - 1}" if left > 1 else "/good.png"
        site.routes[f"/{left}"] = partial(Handler.send, status=302, Location=to)
    assert fetch(site.at("/5"), settings()) == BODY
    assert "there were more than 5 redirects" in failure(site.at("/6"))


def test_a_circular_redirect_ends(site: Site, waits: list[float]) -> None:
    site.routes["/round"] = lambda h: h.send(302, Location="/round")
    assert "there were more than 5 redirects" in failure(site.at("/round"))
    assert site.paths == ["/round"] * 6
    assert not waits


def test_a_redirect_without_a_location_is_an_error(site: Site) -> None:
    site.routes["/away"] = lambda h: h.send(302)
    assert "the server answered 302 Found" in failure(site.at("/away"))


def test_a_content_length_above_the_limit_is_refused(site: Site) -> None:
    site.routes["/large"] = lambda h: h.send(Content_Length="10000000000")
    assert "it is larger than 50,000,000 bytes; set data.url_max_bytes" in failure(site.at("/large"))


def test_the_size_limit_is_exact(site: Site) -> None:
    assert fetch(site.at("/good.png"), settings(max_bytes=len(BODY))) == BODY
    assert "it is larger than 2,047 bytes" in failure(site.at("/good.png"), max_bytes=len(BODY) - 1)


def test_an_endless_body_is_cut_off(site: Site, waits: list[float]) -> None:
    written = []

    def endless(handler: Handler) -> None:
        handler.send(200, b"", Transfer_Encoding="chunked")
        while not handler.server.over.is_set():
            handler.wfile.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
            written.append(1 << 16)

    site.routes["/endless"] = endless
    assert "it is larger than 1,000,000 bytes" in failure(site.at("/endless"), max_bytes=1_000_000)
    assert len(site.paths) == 1
    assert sum(written) < 30_000_000  # the buffers of both sides can hold some of it


def test_a_truncated_body_is_an_error(site: Site) -> None:
    site.routes["/cut"] = lambda h: h.send(Content_Length="4000")
    site.routes["/cut chunk"] = lambda h: h.send(200, b"10\r\nabc", Transfer_Encoding="chunked")
    site.routes["/cut%20chunk"] = site.routes["/cut chunk"]
    assert "the body ended early (3 tries; data.url_retries)" in failure(site.at("/cut"))
    assert "the body ended early (1 try; data.url_retries)" in failure(site.at("/cut chunk"), retries=0)


def test_an_empty_body_is_an_error(site: Site) -> None:
    site.routes["/empty"] = lambda h: h.send(body=b"")
    assert "the server sent no bytes" in failure(site.at("/empty"))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
def test_certificates_are_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        monkeypatch.setattr(download, "_tls_context", lambda: trusting)
        assert fetch(url, settings()) == BODY
        wrong_name = url.replace("127.0.0.1", "localhost")
        assert "certificate" in failure(wrong_name)
        slow = url.replace("good.png", "slow")
        assert "it took longer than 0.3 s" in failure(slow, timeout=0.3, retries=0)
    finally:
        site.close()


def test_https_to_a_server_without_tls_is_an_error(site: Site, waits: list[float]) -> None:
    assert "the TLS connection failed: " in failure(site.at("/good.png").replace("http", "https"))
    assert not waits


def test_an_answer_that_is_not_http_is_not_retried(site: Site, waits: list[float]) -> None:
    def answer(handler: Handler) -> None:
        handler.wfile.write(b"SSH-2.0-OpenSSH\r\n")

    site.routes["/odd"] = answer
    assert "the URL or its server's answer is not valid: BadStatusLine" in failure(site.at("/odd"))
    assert not waits
