"""Images at URLs: bounded in time, size and number, and never from inside the network unless that is asked for.

Connections are direct: proxies from the environment are not used, since the address that is reached could not be
checked behind one. No credentials and no cookies are sent.
"""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import os
import re
import socket
import ssl
import string
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse, IncompleteRead
from itertools import count
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from m2ib_lightning.errors import M2IBError, PairError
from m2ib_lightning.files import atomic_write
from m2ib_lightning.pairs.time_limit import within

BACK_OFF = 0.5
"""Seconds before the second try; each further one waits twice as long."""

LONGEST_WAIT = 10.0
"""Seconds that are waited before another try at most, whatever the server asks for in ``Retry-After``."""

REDIRECTS = 5
"""How many redirects are followed."""

_DAY = 86_400
_MOST_RETRIES = 100
_PIECE = 1 << 16  # bytes read at once
_REDIRECTED = (301, 302, 303, 307, 308)
_PASSING = (429, 500, 502, 503, 504)  # what a server may have got over at the next try
_HEADERS = {"User-Agent": "m2ib_lightning", "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}

_unwarned = threading.Lock()  # taken by the first warning about the cache, and kept


@dataclass(frozen=True)
class UrlSettings:
    """What may be downloaded, and how much of it.

    Attributes:
        allow: whether anything is downloaded at all (``data.allow_urls``).
        allow_private: whether also from private, loopback, link-local, reserved and multicast addresses
            (``data.allow_private_urls``).
        timeout: seconds that one try may take, from the look-up of the host to the last byte (``data.url_timeout``).
        max_bytes: the largest body (``data.url_max_bytes``).
        retries: tries after the first, where another may succeed (``data.url_retries``).
        connections: downloads at once, in each data loader worker (``data.url_connections``).
        cache: a folder that keeps what was downloaded, or None (``data.url_cache``).

    Raises:
        M2IBError: on a value out of range.
    """

    allow: bool = False
    allow_private: bool = False
    timeout: float = 20.0
    max_bytes: int = 50_000_000
    retries: int = 2
    connections: int = 16
    cache: Path | None = None

    def __post_init__(self) -> None:
        seconds = isinstance(self.timeout, int | float) and not isinstance(self.timeout, bool)
        _check(
            seconds and 0 < self.timeout <= _DAY,
            f"data.url_timeout must be in seconds, above 0 and at most {_DAY}, got {self.timeout!r}",
        )
        for name in ("max_bytes", "connections"):
            value = getattr(self, name)
            _check(
                type(value) is int and value >= 1,
                f"data.url_{name} must be a whole number of at least 1, got {value!r}",
            )
        _check(
            type(self.retries) is int and 0 <= self.retries <= _MOST_RETRIES,
            f"data.url_retries must be a whole number from 0 to {_MOST_RETRIES}, got {self.retries!r}",
        )
        cache = os.path.expanduser(self.cache or ".")
        _check(
            os.path.isdir(cache) or not os.path.exists(cache),
            f"data.url_cache must be a folder, or not exist yet; {str(self.cache)!r} is a file",
        )


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise M2IBError(message)


def is_url(text: str) -> bool:
    """Whether a text starts with a scheme, of any kind; a single letter is a Windows drive.

    >>> is_url("https://example.org/a.png"), is_url("photographs/a.png"), is_url("C://a.png")
    (True, False, False)
    """
    return re.match(r"\s*[a-z][a-z0-9+.-]+://", text, re.IGNORECASE) is not None


def fetch(url: str, settings: UrlSettings) -> bytes:
    """The body at a URL, from the cache where it is there: what is kept was checked when it was downloaded.

    Timeouts, connections that fail or end early, a resolver that is busy, and the statuses 429, 500, 502, 503 and 504
    are tried again, after 0.5 s, 1 s, ... or what ``Retry-After`` asks for in seconds, 10 s at most.

    Args:
        url: of http or https.
        settings: what is allowed.

    Raises:
        PairError: if it may not or can't be downloaded; says why, after how many tries, and what to do.
    """
    url = url.strip()
    if not settings.allow:
        raise PairError(
            f"the image {url!r} was not downloaded: images at URLs are only downloaded with data.allow_urls=true"
        )
    kept = _cache_file(url, settings)
    body = _from_cache(kept) if kept else None
    if body is None:
        body = _download(url, settings)
        if kept:
            _to_cache(kept, body)
    return body


def fetch_all(urls: Sequence[str], settings: UrlSettings) -> list[bytes | PairError]:
    """The bodies at URLs, in their order, with the error in place of each that failed.

    At most ``settings.connections`` are open at once; a URL that is there twice is downloaded once.
    """

    def one(url: str) -> bytes | PairError:
        try:
            return fetch(url, settings)
        except PairError as error:
            return error

    different = list(dict.fromkeys(urls))
    if not different:
        return []
    with ThreadPoolExecutor(min(settings.connections, len(different))) as pool:
        outcomes = dict(zip(different, pool.map(one, different), strict=True))
    return [outcomes[url] for url in urls]


class _TryError(Exception):
    """Why a try failed, whether another may succeed, and the seconds that the server asks to wait before it."""

    def __init__(self, why: str, again: bool = False, wait: float = 0.0) -> None:
        super().__init__(why)
        self.again = again
        self.wait = wait


def _download(url: str, settings: UrlSettings) -> bytes:
    for tries in count(1):
        attempt = _Try(settings)
        try:
            return within(settings.timeout, functools.partial(attempt.body, url))
        except Exception as error:  # what a server sends can make the parsers raise anything
            failure = _explain(error, settings)
        finally:
            attempt.give_up()
        if not failure.again or tries > settings.retries:
            break
        sleep(min(max(failure.wait, BACK_OFF * 2 ** (tries - 1)), LONGEST_WAIT))
    how_often = f" ({tries} {'try' if tries == 1 else 'tries'}; data.url_retries)" if failure.again else ""
    raise PairError(f"the image {url!r} could not be downloaded: {failure}{how_often}")


def _explain(error: Exception, settings: UrlSettings) -> _TryError:
    match error:
        case _TryError():
            return error
        case TimeoutError():
            return _TryError(f"it took longer than {settings.timeout:g} s (data.url_timeout)", again=True)
        case socket.gaierror():
            return _TryError(f"its host was not found: {error.strerror}", again=error.errno == socket.EAI_AGAIN)
        case ssl.SSLError():  # an end of file is a connection that broke
            return _TryError(f"the TLS connection failed: {error}", again=isinstance(error, ssl.SSLEOFError))
        case IncompleteRead():
            return _TryError("the body ended early", again=True)
        case OSError():
            return _TryError(f"the connection failed: {error.strerror or error}", again=True)
        case _:
            return _TryError(f"the URL or its server's answer is not valid: {type(error).__name__}: {error}")


class _Target(NamedTuple):
    tls: bool
    host: str
    port: int
    header: str  # the host and port, as the Host header has them
    path: str  # and the query


def _parse(url: str) -> _Target:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise _TryError(f"only URLs of http and https are downloaded, not {url!r}; give a path for a file")
    if "@" in parts.netloc:
        raise _TryError(f"a URL with a user or a password (at {parts.hostname!r}) is not downloaded; leave it out")
    host = (parts.hostname or "").encode("idna").decode()
    if not host:
        raise _TryError(f"there is no host in {url!r}; expected http://host/path")
    tls = parts.scheme == "https"
    header = (f"[{host}]" if ":" in host else host) + (f":{parts.port}" if parts.port else "")
    query = f"?{quote(parts.query, string.punctuation)}" if parts.query else ""
    path = quote(parts.path or "/", string.punctuation)
    return _Target(tls, host, parts.port or (443 if tls else 80), header, path + query)


class _Try:
    """One try at a URL, redirects included, that can be given up from another thread."""

    def __init__(self, settings: UrlSettings) -> None:
        self._settings = settings
        self._end = monotonic() + settings.timeout
        self._socket: socket.socket | None = None

    def body(self, url: str) -> bytes:
        for _ in range(REDIRECTS + 1):
            with self._answer(_parse(url)) as response:
                location = response.getheader("Location")
                if response.status not in _REDIRECTED or location is None:
                    return self._read(response)
                # headers are decoded as Latin-1: that gives back the bytes that were sent
                url = urljoin(url, quote(location.strip(), string.punctuation, "latin-1"))
        raise _TryError(f"there were more than {REDIRECTS} redirects")

    def give_up(self) -> None:
        """Let a thread that still waits for the server go on, to its end."""
        if self._socket is not None:
            with suppress(OSError):  # it is closed already
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    @contextmanager
    def _answer(self, target: _Target) -> Iterator[HTTPResponse]:
        with ExitStack() as stack:
            connection = HTTPConnection(target.host, target.port)  # refuses a host with control characters
            self._socket = stack.enter_context(self._connect(target))
            self._socket.settimeout(self._remaining())
            if target.tls:  # a handshake ends with the socket's time, however its bytes come
                wrapped = _tls().wrap_socket(self._socket, server_hostname=target.host)
                self._socket = stack.enter_context(wrapped)
            connection.sock = self._socket
            connection.request("GET", target.path, headers={"Host": target.header, **_HEADERS})
            yield stack.enter_context(connection.getresponse())

    def _connect(self, target: _Target) -> socket.socket:
        """A connection to one of the host's addresses.

        The host is looked up once, and the addresses that were checked are those that are connected to: a resolver that
        gives another address to the next question changes nothing.
        """
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        for *_, address in found:
            if not self._settings.allow_private and not _is_public(str(address[0])):
                raise _TryError(
                    f"{target.host!r} is at the address {address[0]}, which is not public; "
                    "with data.allow_private_urls=true it is downloaded from there too"
                )
        failure: OSError | None = None
        for left, (family, kind, protocol, _, address) in zip(range(len(found), 0, -1), found, strict=True):
            opened = socket.socket(family, kind, protocol)
            try:
                opened.settimeout(self._remaining() / left)  # an address that is silent leaves time for the others
                opened.connect(address)
                return opened
            except OSError as error:
                opened.close()
                failure = error
        raise failure or OSError("the host has no address")

    def _remaining(self) -> float:
        seconds = self._end - monotonic()
        if seconds <= 0:
            raise TimeoutError
        return seconds

    def _read(self, response: HTTPResponse) -> bytes:
        if not 200 <= response.status < 300:
            answer = f"{response.status} {response.reason}".strip()
            again = response.status in _PASSING
            raise _TryError(f"the server answered {answer}", again, _seconds(response.getheader("Retry-After")))
        limit = self._settings.max_bytes
        body = bytearray()
        too_large = _TryError(f"it is larger than {limit:,} bytes; set data.url_max_bytes if it is meant to be")
        if (response.length or 0) > limit:  # as Content-Length has it
            raise too_large
        while piece := response.read(min(_PIECE, limit + 1 - len(body))):
            body += piece
            if len(body) > limit:
                raise too_large
        if response.length:  # what is left of it
            raise IncompleteRead(bytes(body), response.length)
        if not body:
            raise _TryError("the server sent no bytes")
        return bytes(body)


def _seconds(retry_after: str | None) -> float:
    found = re.fullmatch(r"[0-9]{1,9}", retry_after or "")  # or a date, which is not looked at
    return float(found[0]) if found else 0.0


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _is_public(address: str) -> bool:
    """Whether anybody's host can have an address; of one that holds an IPv4 address for a gateway, that one counts."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in ipaddress.ip_network("64:ff9b::/96"):  # NAT64
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)


def _cache_file(url: str, settings: UrlSettings) -> Path | None:
    if settings.cache is None:
        return None
    name = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()
    return Path(settings.cache).expanduser() / name[:2] / name


def _from_cache(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        _warn(file, error)
        return None


def _to_cache(file: Path, body: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as opened:
            opened.write(body)
    except OSError as error:
        _warn(file, error)


def _warn(file: Path, error: OSError) -> None:
    if _unwarned.acquire(blocking=False):
        warnings.warn(
            f"downloaded images are not kept: {file} in data.url_cache can't be used ({error.strerror or error})",
            stacklevel=2,
        )
