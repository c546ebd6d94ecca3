"""Hosts that fail again and again are left alone for a while, so that a thousand dead URLs cost minutes, not hours."""

from __future__ import annotations

import threading
import warnings
from dataclasses import dataclass
from time import monotonic
from urllib.parse import urlsplit

from m2ib_lightning.errors import PairError, quoted, shortened

MAX_FAILURES = 10
"""Number of failed downloads in a row after which a host is left alone."""

PAUSE = 60.0
"""Seconds for which a host is left alone; each further failure doubles them."""

MAX_PAUSE = 600.0
"""Upper limit in seconds of a pause."""


@dataclass
class _Record:
    """What is known of a host whose last download failed.

    Attributes:
        failures: number of failed downloads in a row.
        pause: seconds of its last pause; 0 before the first.
        until: end of its last pause.
        probed: whether a download tries the host after a pause.
    """

    failures: int = 0
    pause: float = 0.0
    until: float = 0.0
    probed: bool = False


class Hosts:
    """The hosts whose downloads fail, in one process; its threads share them."""

    def __init__(self) -> None:
        self._records: dict[str, _Record] = {}
        self._lock = threading.Lock()

    def admit(self, host: str) -> None:
        """Refuse a download from a host that is left alone. After a pause, a single download tries the host.

        Raises:
            PairError: if the host is left alone; the message says for how long.
        """
        with self._lock:
            record = self._records.get(host)
            if record is None or not record.pause:
                return
            left = record.until - monotonic()
            if left > 0 or record.probed:
                raise PairError(
                    f"its host {quoted(host)} failed {record.failures} times in a row and is left alone for "
                    f"{max(left, 1):.0f} s more; resume=true with retry_failed=true asks it again"
                )
            record.probed = True

    def is_left_alone(self, host: str) -> bool:
        """Return whether a host is left alone now: a download that has begun is not tried again."""
        with self._lock:
            record = self._records.get(host)
            return record is not None and record.until > monotonic()

    def answered(self, host: str) -> None:
        """Note that a host has answered: it is not to blame."""
        with self._lock:
            self._records.pop(host, None)

    def failed(self, host: str, why: str) -> None:
        """Note that a download failed because of its host; warn when the host is left alone for the first time.

        Args:
            host: name of the host.
            why: reason of the failure.
        """
        with self._lock:
            record = self._records.setdefault(host, _Record())
            record.failures += 1
            now = monotonic()
            if record.failures < MAX_FAILURES or now < record.until:  # or: it began before the pause
                return
            warn = not record.pause
            record.pause = min(2 * record.pause, MAX_PAUSE) or PAUSE
            record.until, record.probed = now + record.pause, False
        if warn:
            warnings.warn(
                f"the host {quoted(host)} failed {record.failures} times in a row (at last: {shortened(why)}) and is "
                f"left alone for {PAUSE:g} s or more: its images become failed rows, which resume=true with "
                "retry_failed=true tries again",
                stacklevel=2,
            )


HOSTS = Hosts()
"""The hosts of this process."""


def host_of(url: str) -> str:
    """Return the host and the port of a URL; an empty text if it has none.

    >>> host_of("https://Example.org/a.png")
    'example.org'
    """
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return ""
