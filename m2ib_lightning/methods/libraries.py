"""Libraries that only some methods need."""

from __future__ import annotations

from typing import Any

from m2ib_lightning.errors import M2IBError


def captum() -> Any:
    """``captum.attr``.

    Raises:
        M2IBError: if it is not installed; says how to get it.
    """
    try:
        import captum.attr
    except ImportError:
        raise M2IBError("this attribution method is Captum's: pip install 'm2ib_lightning[evaluate]'") from None
    return captum.attr
