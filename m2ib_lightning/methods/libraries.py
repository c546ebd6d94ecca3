"""Optional libraries, imported by the methods that need them."""

from __future__ import annotations

from typing import Any

from m2ib_lightning.errors import M2IBError


def captum() -> Any:
    """Import and return ``captum.attr``.

    Raises:
        M2IBError: if Captum is not installed; the message names the command that installs it.
    """
    try:
        import captum.attr
    except ImportError:
        raise M2IBError("this attribution method needs Captum: pip install 'm2ib_lightning[evaluate]'") from None
    return captum.attr
