"""Backgrounds like a photograph's, made without one: clouds, stones, grain, a horizon, and light from one side.

All are (64, 64, 3) float32, from 0 to 255.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from m2ib_lightning.scenes.painter import CANVAS, Floats

_Y, _X = np.mgrid[0:CANVAS, 0:CANVAS] / CANVAS  # (64, 64) each
_HUES = np.array([(122, 96, 70), (86, 104, 72), (104, 118, 134), (150, 138, 118), (96, 92, 98), (168, 160, 140)])
"""Colours of soil, grass, sky, sand, asphalt and plaster: duller than any object."""

Grey = NDArray[np.float64]


def photographic_background(rng: np.random.Generator) -> Floats:
    """Return a random background: one of the textures in two dull colours, or two of them with a horizon."""
    picture = _coloured(rng)
    if rng.random() < 0.4:
        horizon = rng.uniform(0.3, 0.7) + 0.06 * (_power_noise(rng, 2.0) - 0.5)
        picture = np.where((horizon > _Y)[..., None], picture, _coloured(rng))
    return picture.astype(np.float32)


def light(rng: np.random.Generator, picture: Floats) -> Floats:
    """Return the picture under light from one side, slightly out of focus, with the noise of a sensor."""
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.3)
    ramp = (_X - 0.5) * np.cos(angle) + (_Y - 0.5) * np.sin(angle)
    lit = picture * (1 + strength * ramp)[..., None]
    blurred = _blurred(lit, rng.uniform(0, 0.2))
    return (blurred + rng.normal(0, 4, picture.shape)).astype(np.float32)


def _blurred(picture: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
    """Mix each pixel with its two neighbours, along both axes."""
    for axis in (0, 1):
        padded = np.pad(picture, [(1, 1) if axis == other else (0, 0) for other in range(3)], mode="edge")
        before, after = (np.take(padded, np.arange(CANVAS) + shift, axis) for shift in (0, 2))
        picture = (1 - 2 * weight) * picture + weight * (before + after)
    return picture


def _coloured(rng: np.random.Generator) -> NDArray[np.float64]:
    texture = (_power_noise, _stones, _grain)[rng.integers(3)](rng)
    first, second = _HUES[rng.permutation(len(_HUES))[:2]] + rng.normal(0, 12, (2, 3))
    mixed = first + (second - first) * texture[..., None]
    return mixed + rng.uniform(10, 30) * (_power_noise(rng, 1.0) - 0.5)[..., None]


def _power_noise(rng: np.random.Generator, exponent: float | None = None) -> Grey:
    """Noise whose amplitude falls with a power of the frequency, as that of natural pictures does."""
    exponent = rng.uniform(1.0, 1.8) if exponent is None else exponent
    frequency = np.hypot(np.fft.fftfreq(CANVAS)[:, None], np.fft.rfftfreq(CANVAS)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((CANVAS, CANVAS))) / frequency**exponent
    return _stretched(np.fft.irfft2(spectrum, s=(CANVAS, CANVAS)))


def _stones(rng: np.random.Generator) -> Grey:
    """Cells around random points, dark at their joints."""
    points = rng.uniform(0, 1, (int(rng.integers(12, 40)), 2))
    distances = np.hypot(_X[..., None] - points[:, 0], _Y[..., None] - points[:, 1])  # (64, 64, points)
    nearest = np.sort(distances, -1)
    shade = rng.uniform(0, 0.5, len(points))[distances.argmin(-1)]
    return _stretched(np.minimum((nearest[..., 1] - nearest[..., 0]) * 12, 1) * 0.7 + shade)


def _grain(rng: np.random.Generator) -> Grey:
    """Bent stripes, as of wood, cloth or a wall of boards."""
    angle, stripes = rng.uniform(0, np.pi), rng.uniform(4, 14)
    along = _X * np.cos(angle) + _Y * np.sin(angle) + rng.uniform(0.02, 0.2) * _power_noise(rng, 1.8)
    return _stretched(np.sin(2 * np.pi * stripes * along) + 0.6 * _power_noise(rng, 0.6))


def _stretched(values: Grey) -> Grey:
    return np.asarray((values - values.min()) / (values.max() - values.min()))
