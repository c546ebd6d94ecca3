"""Grey levels and colours of stored DICOM values, by the rescale, the windows and the tables of the file.

Stored values have at most 16 bits. Whatever maps them is computed once for each possible value, not for each pixel.
Legend: H x W pixels, N possible values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2ib_lightning.errors import PairError
from m2ib_lightning.pairs.windows import Limits, Window, limits_of_counts, stretch

Floats = NDArray[np.float64]

_STRIP_PIXELS = 2**22
"""Number of pixels that are counted at once."""

_DEEP = 8
"""Largest number of stored bits that are shown in full where neither the file nor the user has a window."""


def grey_levels(
    stored: NDArray[Any], header: Any, window: Window | None, *, little_endian: bool, inverted: bool
) -> NDArray[np.uint8]:
    """Return grey levels 0 to 255 (H, W).

    Args:
        stored: stored values (H, W), integers of 8 or 16 bits.
        header: pydicom data set with the tags about grey values.
        window: window in the values after the rescale; None for the file's own, else ``auto`` for more than 8 bits.
        little_endian: byte order of the file's tables.
        inverted: whether the lowest value is white (MONOCHROME1).

    Raises:
        PairError: if the rescale gives values that are not finite.
    """
    codes, possible = _codes(stored)
    values = _rescaled(possible, header, little_endian)
    if not np.isfinite(values).all():
        raise PairError("the rescale of the DICOM file gives values that are not finite")
    shares = _own_window(values, header, little_endian) if window is None else None
    if shares is not None:
        levels = (shares.clip(0, 1) * 255).round().astype(np.uint8)
    else:
        levels = stretch(values, _limits(codes, possible, values, header, window))
    return (255 - levels if inverted else levels)[codes]


def palette_colours(stored: NDArray[Any], header: Any, *, little_endian: bool) -> NDArray[np.uint8]:
    """Return the colours (H, W, 3) of stored indices (H, W) into the file's palette.

    Raises:
        PairError: if the file has no palette in full.
    """
    codes, possible = _codes(stored)
    channels = []
    for colour in ("Red", "Green", "Blue"):
        descriptor = header.get(f"{colour}PaletteColorLookupTableDescriptor")
        data = header.get(f"{colour}PaletteColorLookupTableData")
        if descriptor is None or data is None:
            raise PairError("the DICOM file has no palette, or a segmented one, which is not read")
        table, bits = _look_up(possible, descriptor, data, little_endian)
        channels.append(stretch(table, (0, 2**bits - 1)))
    return np.stack(channels, axis=1)[codes]


def eight_bits(stored: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Return colours (H, W, 3) of ``bits`` stored bits as 8 bits; 8-bit colours stay as they are."""
    if stored.dtype == np.uint8 and bits == 8:
        return stored
    codes, possible = _codes(stored)
    return stretch(possible, (0, 2**bits - 1))[codes]


def _codes(stored: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The stored values as indices, and the value (N,) of each index."""
    native = np.ascontiguousarray(stored.astype(stored.dtype.newbyteorder("="), copy=False))
    unsigned = np.dtype(f"u{native.itemsize}")
    possible = np.arange(2 ** (8 * native.itemsize)).astype(unsigned).view(native.dtype)
    return native.view(unsigned), possible.astype(np.int64)


def _rescaled(possible: NDArray[np.int64], header: Any, little_endian: bool) -> Floats:
    """The values (N,) after the modality LUT, or the rescale."""
    for item in header.get("ModalityLUTSequence") or ():
        return _look_up(possible, item.LUTDescriptor, item.LUTData, little_endian)[0]
    slope, intercept = _first(header.get("RescaleSlope")), _first(header.get("RescaleIntercept"))
    if slope is None or intercept is None:
        return possible.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        return possible.astype(np.float64) * slope + intercept


def _own_window(values: Floats, header: Any, little_endian: bool) -> Floats | None:
    """Grey from 0 to 1 (N,) by the first VOI LUT or window of the file (DICOM part 3, C.11.2); None without one."""
    for item in header.get("VOILUTSequence") or ():
        if item.get("LUTDescriptor") is None or item.get("LUTData") is None:
            break
        table, bits = _look_up(values.round().astype(np.int64), item.LUTDescriptor, item.LUTData, little_endian)
        return table / (2**bits - 1)
    center, width = _first(header.get("WindowCenter")), _first(header.get("WindowWidth"))
    function = str(header.get("VOILUTFunction") or "LINEAR").strip().upper()
    if center is None or width is None or not np.isfinite([center, width]).all() or width <= 0:
        return None
    if function == "SIGMOID":
        grey: Floats = 1 / (1 + np.exp((-4 * (values - center) / width).clip(-700, 700)))
        return grey
    if function != "LINEAR_EXACT":
        center, width = center - 0.5, width - 1
    if width <= 0:
        return (values > center).astype(np.float64)
    return (values - center) / width + 0.5


def _limits(
    codes: NDArray[Any], possible: NDArray[np.int64], values: Floats, header: Any, window: Window | None
) -> Limits:
    bits = int(header.BitsStored)
    if window is None and bits <= _DEEP:
        lowest = -(2 ** (bits - 1)) if possible.min() < 0 else 0
        storable = values[(possible >= lowest) & (possible < lowest + 2**bits)]
        return float(storable.min()), float(storable.max())
    counts = np.zeros(len(values), np.int64)
    flat = codes.ravel()
    for start in range(0, flat.size, _STRIP_PIXELS):
        counts += np.bincount(flat[start : start + _STRIP_PIXELS], minlength=len(values))
    inside = np.where(_is_padding(possible, header), 0, counts)
    return limits_of_counts(values, inside if inside.any() else counts, window or "auto")


def _is_padding(possible: NDArray[np.int64], header: Any) -> NDArray[np.bool_]:
    """Whether each value (N,) stands for no measurement: the pixel padding value, or its range."""
    names = ("PixelPaddingValue", "PixelPaddingRangeLimit")
    ends = [end for end in (_first(header.get(name)) for name in names) if end is not None]
    if not ends or header.get(names[0]) is None:
        return np.zeros(len(possible), np.bool_)
    if possible.min() < 0:  # a negative value may be written as unsigned
        ends = [end - 2**16 if end >= 2**15 else end for end in ends]
    low, high = min(ends), max(ends)
    return (possible >= low) & (possible <= high)


def _look_up(values: NDArray[np.int64], descriptor: Any, data: Any, little_endian: bool) -> tuple[Floats, int]:
    """The entries of a lookup table for values (N,), and the number of bits of an entry."""
    order = "<" if little_endian else ">"
    entries, first, bits = (int(number) for number in _numbers(descriptor, f"{order}u2"))
    if not 1 <= bits <= 16:
        raise ValueError("a lookup table must have 1 to 16 bits")
    entries = entries or 2**16
    if first >= 2**15 and values.min() < 0:
        first -= 2**16
    is_packed = bits <= 8 and isinstance(data, bytes) and len(data) <= entries + 1
    table = _numbers(data, "u1" if is_packed else f"{order}u2")[:entries]
    return table[(values - first).clip(0, len(table) - 1)].astype(np.float64), bits


def _numbers(value: Any, kind: str) -> NDArray[Any]:
    """The numbers of an element, which pydicom leaves as bytes where their type is ambiguous."""
    return np.frombuffer(value, kind) if isinstance(value, bytes) else np.asarray(value, np.int64)


def _first(value: Any) -> float | None:
    """The first number of an element; None if it is empty."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        value = value[0] if len(value) else None
    return None if value is None or value == "" else float(value)
