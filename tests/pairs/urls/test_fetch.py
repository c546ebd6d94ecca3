"""The cache, simultaneous downloads, and the settings."""

from __future__ import annotations

import hashlib
import threading
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from m2ib_lightning.errors import M2IBError, PairError
from m2ib_lightning.pairs.image_rules import ImageRules
from m2ib_lightning.pairs.urls import fetch as fetch_module
from m2ib_lightning.pairs.urls.fetch import fetch, fetch_all
from m2ib_lightning.pairs.urls.url_settings import UrlSettings
from tests.pairs.test_image_rules import saved
from tests.pairs.urls.site import BODY, Handler, Site, failure, in_turn, settings


def test_nothing_is_downloaded_unless_allowed(site: Site) -> None:
    with pytest.raises(PairError, match=r"images at URLs are only downloaded with data\.allow_urls=true"):
        fetch(site.at("/good.png"), UrlSettings())
    assert site.connections == 0


def test_a_download_is_cached(tmp_path: Path) -> None:
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


def test_a_failure_is_not_cached(site: Site, tmp_path: Path) -> None:
    site.routes["/late.png"] = in_turn(lambda h: h.send(404), Handler.send)
    assert "404" in failure(site.at("/late.png"), cache=tmp_path)
    assert not list(tmp_path.iterdir())
    assert fetch(site.at("/late.png"), settings(cache=tmp_path)) == BODY


@pytest.mark.parametrize("body", [b"<html>not found</html>", BODY[:300], b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\0" * 5000])
def test_only_what_can_be_decoded_is_cached(site: Site, tmp_path: Path, body: bytes) -> None:
    site.routes["/a.png"] = in_turn(lambda h: h.send(200, body), Handler.send)
    assert fetch(site.at("/a.png"), settings(cache=tmp_path)) == body
    assert not list(tmp_path.iterdir())
    assert fetch(site.at("/a.png"), settings(cache=tmp_path)) == BODY
    assert fetch(site.at("/a.png"), settings(cache=tmp_path)) == BODY
    assert len(site.paths) == 2


def test_the_rules_for_images_decide_what_is_cached(site: Site, tmp_path: Path) -> None:
    small, large = ImageRules(max_bytes=100), ImageRules()
    site.routes["/a.bmp"] = lambda h: h.send(200, saved("BMP"))
    for rules, cached in ((small, False), (large, True)):
        fetch_all([site.at("/a.bmp")], settings(cache=tmp_path), rules)
        assert bool(list(tmp_path.iterdir())) is cached


def test_a_bad_body_in_the_cache_is_asked_again(site: Site, tmp_path: Path) -> None:
    url = site.at("/good.png")
    name = hashlib.sha256(url.encode()).hexdigest()
    (tmp_path / name[:2]).mkdir()
    (tmp_path / name[:2] / name).write_bytes(b"<html>too many requests</html>")
    assert fetch(url, settings(cache=tmp_path)).startswith(b"<html>")
    for _ in range(2):
        assert fetch(url, settings(cache=tmp_path, check_cache=True)) == BODY
    assert fetch(url, settings(cache=tmp_path)) == BODY
    assert site.paths == ["/good.png"]


def test_an_unusable_cache_warns_once(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "_warn_once", threading.Lock())
    (tmp_path / "file").touch()
    unusable = settings(cache=tmp_path / "file" / "cache")
    with pytest.warns(UserWarning, match=r"images are not cached: .* in data\.url_cache can't be used") as warned:
        assert fetch_all([site.at("/good.png"), site.at("/gone.png")], unusable)[0] == BODY
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fetch(site.at("/good.png"), unusable) == BODY


def test_results_and_errors_are_in_the_order_of_the_urls(site: Site) -> None:
    site.routes |= {f"/{i}": partial(Handler.send, body=b"%d" % i) for i in range(20)}
    urls = [site.at(f"/{i}") for i in range(20)] + [site.at("/gone.png"), "ftp://a/b", site.at("/3")]
    outcomes = fetch_all(urls, settings(connections=4))
    assert outcomes[:20] == [b"%d" % i for i in range(20)]
    assert outcomes[22] == b"3"
    assert "the server answered 404 Not Found" in str(outcomes[20])
    assert "only URLs of http and https" in str(outcomes[21])
    assert all(isinstance(outcome, PairError) for outcome in outcomes[20:22])
    assert len(site.paths) == 21  # /3 once
    assert fetch_all([], settings()) == []


def test_connections_are_bounded(site: Site) -> None:
    together, lock = threading.Barrier(2), threading.Lock()
    running, most = 0, 0

    def counted(handler: Handler) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(10)  # two downloads run at once
        handler.server.over.wait(0.02)  # leaves time for a third
        with lock:
            running -= 1
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
