"""The URLs and network addresses that a download may reach."""

from __future__ import annotations

import ipaddress
import re
import socket
import string
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from m2ib_lightning.errors import PairError, quoted

_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        (
            "168.63.129.16/32",  # Azure's virtual server: metadata, DNS, keys
            "100.64.0.0/10",  # shared; Alibaba's metadata are at 100.100.100.200
            "192.0.0.0/24",  # special purposes; Oracle's metadata are at 192.0.0.192
            "192.88.99.0/24",  # relays of 6to4
            "161.26.0.0/16",  # IBM Cloud's private services
            "166.8.0.0/14",  # IBM Cloud's private services
            "::/96",  # IPv4-compatible
            "64:ff9b:1::/48",  # NAT64 inside a network
            "2001::/23",  # special purposes, Teredo
            "3fff::/20",  # documentation
            "5f00::/16",  # segments of a route
        ),
    )
)
"""Networks that count as public in Python's ``ipaddress`` (in some versions, or in all) and are not: clouds answer
there with the machine's credentials, or an address embeds another one.
"""

_ISATAP = (0x00005EFE, 0x02005EFE)
"""Third quarter of an IPv6 address that embeds an IPv4 address (ISATAP)."""


class Target(NamedTuple):
    """A URL, parsed for one HTTP request.

    Attributes:
        tls: whether the scheme is https.
        host: ASCII name or address of the host.
        port: port number.
        header: host and port, as in the ``Host`` header.
        path: quoted path and query.
    """

    tls: bool
    host: str
    port: int
    header: str
    path: str


def is_url(text: str) -> bool:
    """Return whether a text starts with a URL scheme; a single letter is a Windows drive, not a scheme.

    >>> is_url("https://example.org/a.png"), is_url("photographs/a.png"), is_url("C://a.png")
    (True, False, False)
    """
    return re.match(r"\s*[a-z][a-z0-9+.-]+://", text, re.IGNORECASE) is not None


def parse_url(url: str) -> Target:
    """Parse an HTTP or HTTPS URL.

    Raises:
        PairError: if the scheme is another one, there is no host, or the URL contains a user or a password.
        ValueError: if the URL is malformed.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise PairError(f"only URLs of http and https are downloaded, not {quoted(url)}; give a path for a file")
    if "@" in parts.netloc:
        raise PairError(
            f"a URL with a user or a password (at {quoted(parts.hostname)}) is not downloaded; leave it out"
        )
    host = (parts.hostname or "").encode("idna").decode()
    if not host:
        raise PairError(f"there is no host in {quoted(url)}; expected http://host/path")
    tls = parts.scheme == "https"
    header = (f"[{host}]" if ":" in host else host) + (f":{parts.port}" if parts.port else "")
    query = f"?{quote(parts.query, string.punctuation)}" if parts.query else ""
    path = quote(parts.path or "/", string.punctuation)
    return Target(tls, host, parts.port or (443 if tls else 80), header, path + query)


def resolve(
    target: Target, allow_private: bool
) -> Sequence[tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]]:
    """Look up the addresses of a host, and check each of them.

    The caller must connect to these addresses and not look the host up again. A second look-up could return an address
    that was never checked.

    Returns:
        The results of ``socket.getaddrinfo``; the last item of each is the address to connect to.

    Raises:
        PairError: if any address is not public, unless private ones are allowed.
        OSError: if the host is not found.
    """
    addresses = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    for *_, address in addresses:
        if not allow_private and not is_public(str(address[0])):
            raise PairError(
                f"{quoted(target.host)} is at the address {address[0]}, which is not public; "
                "with data.allow_private_urls=true it is downloaded from there too"
            )
    return addresses


def is_public(address: str) -> bool:
    """Return whether an IP address is globally reachable.

    An IPv6 address that embeds an IPv4 address (mapped, 6to4, NAT64) is judged by the embedded one. Addresses
    at which clouds answer their machines are not public.

    >>> is_public("8.8.8.8"), is_public("10.0.0.1"), is_public("::ffff:10.0.0.1")
    (True, False, False)
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour
        if ip in ipaddress.ip_network("64:ff9b::/96"):  # NAT64
            embedded = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if embedded is not None:
            return is_public(str(embedded))
        if ip.is_site_local or int(ip) >> 32 & 0xFFFFFFFF in _ISATAP:
            return False
    if any(ip in network for network in _NOT_PUBLIC if network.version == ip.version):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)
