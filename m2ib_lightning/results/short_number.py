"""How a drawing, a bar or a terminal writes a saliency."""

from __future__ import annotations


def short_number(value: float) -> str:
    """Return a number with three digits, and without an exponent up to ten million.

    >>> short_number(1524.6), short_number(999.7), short_number(98.764), short_number(0.00123)
    ('1,525', '1,000', '98.8', '0.00123')
    """
    return f"{value:,.0f}" if 999.5 <= abs(value) < 1e7 else f"{value:.3g}"
