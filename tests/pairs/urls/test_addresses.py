"""Only public addresses are reached, unless private ones are allowed."""

from __future__ import annotations

import time

import pytest

from m2ib_lightning.pairs.urls.addresses import is_public, is_url
from m2ib_lightning.pairs.urls.fetch import fetch
from tests.pairs.urls.site import BODY, Site, failure, linux, make_public, resolve_to, settings


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
def test_invalid_urls_are_refused(url: str, message: str, waits: list[float]) -> None:
    assert message in failure(url)
    assert not waits


def test_a_url_with_a_password_is_refused(site: Site) -> None:
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
def test_loopback_addresses_are_refused(site: Site, host: str) -> None:
    message = failure(site.at("/good.png", host), allow_private=False)
    assert "which is not public; with data.allow_private_urls=true" in message
    assert site.connections == 0


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "10.0.0.1", "192.168.1.1", "[fe80::1]", "224.0.0.1", "168.63.129.16"]
)
def test_private_networks_are_refused_without_a_connection(host: str) -> None:
    began = time.monotonic()
    assert "is not public" in failure(f"http://{host}/latest/meta-data/", allow_private=False)
    assert time.monotonic() - began < 5  # a connection would wait 10 s


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1"),
        *("::1", "::", "fe80::1", "fe80::1%1", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "ff0e::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "2002:7f00:1::1", "64:ff9b::10.0.0.1", "64:ff9b:1::1"),
        *("2001::1", "168.63.129.16", "::ffff:168.63.129.16", "64:ff9b::168.63.129.16", "2002:a83f:8110::1"),
        *("100.100.100.200", "192.0.0.192", "161.26.0.7", "166.9.1.2", "192.88.99.1", "169.254.170.2"),
        *("fd00:ec2::254", "fd20:ce::254", "fd00:42::42", "2606:4700::5efe:10.0.0.1", "3fff::1", "5f00::1"),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "168.63.129.17", "192.0.1.1", "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"],
)
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(address)


def test_a_host_is_looked_up_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    make_public(monkeypatch, "127.0.0.1")
    hosts = resolve_to(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
    assert fetch(site.at("/good.png", "rebinding.invalid"), settings(allow_private=False)) == BODY
    assert hosts == ["rebinding.invalid"]
    assert "127.0.0.2, which is not public" in failure(site.at("/", "rebinding.invalid"), allow_private=False)


def test_a_host_with_one_private_address_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    make_public(monkeypatch, "127.0.0.1")
    resolve_to(monkeypatch, ["127.0.0.1", "127.0.0.2"])
    assert "127.0.0.2, which is not public" in failure(site.at("/", "both.invalid"), allow_private=False)
    assert site.connections == 0


def test_proxies_are_not_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert fetch(site.at("/good.png"), settings()) == BODY


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/a", "data:,a", "gopher://127.0.0.1/"])
def test_a_redirect_to_another_scheme_is_refused(site: Site, to: str) -> None:
    site.routes["/away"] = lambda h: h.send(302, Location=to)
    assert f"only URLs of http and https are downloaded, not {to!r}" in failure(site.at("/away"))
    assert site.paths == ["/away"]


@linux
def test_a_redirect_to_a_private_address_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    private = Site("127.0.0.2")
    try:
        site.routes["/away"] = lambda h: h.send(302, Location=private.at("/good.png"))
        make_public(monkeypatch, "127.0.0.1")
        assert "at the address 127.0.0.2, which is not public" in failure(site.at("/away"), allow_private=False)
        assert (site.paths, private.connections) == (["/away"], 0)
        make_public(monkeypatch, "127.0.0.1", "127.0.0.2")
        assert fetch(site.at("/away"), settings(allow_private=False)) == BODY
        assert private.paths == ["/good.png"]
    finally:
        private.close()


def test_is_url() -> None:
    assert all(map(is_url, ["http://a", "HTTPS://a/b", "s3://bucket/a.png", " file:///a", "git+ssh://a"]))
    assert not any(map(is_url, ["a.png", "/a//b", "C://a.png", "C:\\a.png", "data:,a", "://a", "1a://b", ""]))
