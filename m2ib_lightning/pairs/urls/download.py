"""One download: an HTTP request with redirects, one deadline per attempt, and retries."""

from __future__ import annotations

import functools
import re
import socket
import ssl
import string
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection, HTTPResponse, IncompleteRead
from itertools import count
from time import monotonic, sleep
from urllib.parse import quote, urljoin

from m2ib_lightning.errors import PairError, quoted, shortened
from m2ib_lightning.pairs.time_limit import within
from m2ib_lightning.pairs.urls.addresses import Target, parse_url, resolve
from m2ib_lightning.pairs.urls.hosts import HOSTS, host_of
from m2ib_lightning.pairs.urls.url_settings import UrlSettings

BACK_OFF = 0.5
"""Seconds before the first retry; each further retry waits twice as long."""

MAX_WAIT = 10.0
"""Upper limit in seconds for the wait before a retry, whatever ``Retry-After`` asks for."""

MAX_REDIRECTS = 5
"""Largest number of redirects that are followed."""

_MAX_REASON = 200
_CHUNK_BYTES = 1 << 16
_REDIRECT_STATUSES = (301, 302, 303, 307, 308)
_RETRY_STATUSES = (429, 500, 502, 503, 504)
_HEADERS = {"User-Agent": "m2ib_lightning", "Accept": "*/*", "Accept-Encoding": "identity", "Connection": "close"}


def download(url: str, settings: UrlSettings) -> bytes:
    """Download the body at a URL.

    A timeout, a failed or broken connection, a busy resolver, and the statuses 429, 500, 502, 503 and 504 are retried.
    The wait is 0.5 s before the first retry and doubles each time. ``Retry-After`` can make it longer, up to 10 s.

    Args:
        url: HTTP or HTTPS URL of the image.
        settings: limits and permissions.

    Raises:
        PairError: if the URL is refused or the download fails. The message gives the reason, the tries and the remedy.
    """
    host = host_of(url)
    try:
        HOSTS.admit(host)
    except PairError as error:
        raise PairError(f"the image {quoted(url)} was not downloaded: {error}") from None
    for tries in count(1):
        attempt = _Attempt(settings)
        try:
            body: bytes = within(settings.timeout, functools.partial(attempt.body, url))
            HOSTS.answered(host)
            return body
        except Exception as error:  # a server's answer can make the parsers raise anything
            failure = _explain(error, settings)
        finally:
            attempt.abort()
        if not failure.retry or tries > settings.retries or HOSTS.is_left_alone(host):
            break
        sleep(min(max(failure.wait, BACK_OFF * 2 ** (tries - 1)), MAX_WAIT))
    if failure.retry or failure.unreachable:
        HOSTS.failed(host, str(failure))
    else:
        HOSTS.answered(host)
    attempts = f" ({tries} {'try' if tries == 1 else 'tries'}; data.url_retries)" if failure.retry else ""
    raise PairError(f"the image {quoted(url)} could not be downloaded: {failure}{attempts}")


class _AttemptError(Exception):
    """A failed attempt.

    Args:
        why: the reason.
        retry: whether a retry may succeed.
        wait: seconds that the server asks for.
        unreachable: whether the host could not be reached, though a retry is of no use.
    """

    def __init__(self, why: str, retry: bool = False, wait: float = 0.0, unreachable: bool = False) -> None:
        super().__init__(why)
        self.retry = retry
        self.wait = wait
        self.unreachable = unreachable


def _explain(error: Exception, settings: UrlSettings) -> _AttemptError:
    match error:
        case _AttemptError():
            return error
        case PairError():  # the URL or its address was refused
            return _AttemptError(str(error))
        case TimeoutError():
            return _AttemptError(f"it took longer than {settings.timeout:g} s (data.url_timeout)", retry=True)
        case socket.gaierror():
            again = error.errno == socket.EAI_AGAIN
            return _AttemptError(f"its host was not found: {error.strerror}", retry=again, unreachable=True)
        case ssl.SSLError():  # an unexpected end of file means that the connection broke
            broken = isinstance(error, ssl.SSLEOFError)
            return _AttemptError(f"the TLS connection failed: {error}", retry=broken, unreachable=True)
        case IncompleteRead():
            return _AttemptError("the body ended early", retry=True)
        case OSError():
            return _AttemptError(f"the connection failed: {error.strerror or error}", retry=True)
        case _:
            return _AttemptError(
                f"the URL or its server's answer is not valid: {type(error).__name__}: {str(error)[:_MAX_REASON]}"
            )


class _Attempt:
    """One attempt at a URL, redirects included; another thread can abort it."""

    def __init__(self, settings: UrlSettings) -> None:
        self._settings = settings
        self._deadline = monotonic() + settings.timeout
        self._socket: socket.socket | None = None

    def body(self, url: str) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            with self._request(parse_url(url)) as response:
                location = response.getheader("Location")
                if response.status not in _REDIRECT_STATUSES or location is None:
                    return self._read(response)
                # http.client decodes headers as Latin-1: encoding as Latin-1 restores the bytes of the server
                url = urljoin(url, quote(location.strip(), string.punctuation, "latin-1"))
        raise _AttemptError(f"there were more than {MAX_REDIRECTS} redirects")

    def abort(self) -> None:
        """Close the connection, so that a thread that still waits for the server ends."""
        if self._socket is not None:
            with suppress(OSError):  # it is closed already
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    @contextmanager
    def _request(self, target: Target) -> Iterator[HTTPResponse]:
        with ExitStack() as stack:
            connection = HTTPConnection(target.host, target.port)  # refuses a host with control characters
            self._socket = stack.enter_context(self._connect(target))
            self._socket.settimeout(self._remaining())
            if target.tls:  # the socket's timeout bounds the whole handshake, however slowly its bytes arrive
                wrapped = _tls_context().wrap_socket(self._socket, server_hostname=target.host)
                self._socket = stack.enter_context(wrapped)
            connection.sock = self._socket
            connection.request("GET", target.path, headers={"Host": target.header, **_HEADERS})
            yield stack.enter_context(connection.getresponse())

    def _connect(self, target: Target) -> socket.socket:
        """Connect to the first address of the host that answers, among those that ``resolve`` checked."""
        addresses = resolve(target, self._settings.allow_private)
        failure: OSError | None = None
        countdown = range(len(addresses), 0, -1)
        for addresses_left, (family, kind, protocol, _, address) in zip(countdown, addresses, strict=True):
            connected = socket.socket(family, kind, protocol)
            try:
                connected.settimeout(self._remaining() / addresses_left)  # a silent address leaves time for the others
                connected.connect(address)
                return connected
            except OSError as error:
                connected.close()
                failure = error
        raise failure or OSError("the host has no address")

    def _remaining(self) -> float:
        seconds = self._deadline - monotonic()
        if seconds <= 0:
            raise TimeoutError
        return seconds

    def _read(self, response: HTTPResponse) -> bytes:
        if not 200 <= response.status < 300:
            answer = f"{response.status} {shortened(response.reason)}".strip()
            retry = response.status in _RETRY_STATUSES
            raise _AttemptError(f"the server answered {answer}", retry, _seconds(response.getheader("Retry-After")))
        limit = self._settings.max_bytes
        body = bytearray()
        too_large = _AttemptError(f"it is larger than {limit:,} bytes; set data.url_max_bytes if it is meant to be")
        if (response.length or 0) > limit:  # from Content-Length
            raise too_large
        while chunk := response.read(min(_CHUNK_BYTES, limit + 1 - len(body))):
            body += chunk
            if len(body) > limit:
                raise too_large
        if response.length:  # Content-Length announced more bytes than arrived
            raise IncompleteRead(bytes(body), response.length)
        if not body:
            raise _AttemptError("the server sent no bytes")
        return bytes(body)


def _seconds(retry_after: str | None) -> float:
    """The seconds of a ``Retry-After`` header; 0 if it is missing or a date."""
    number = re.fullmatch(r"[0-9]{1,9}", retry_after or "")
    return float(number[0]) if number else 0.0


@functools.cache
def _tls_context() -> ssl.SSLContext:
    return ssl.create_default_context()
