"""The style and the script of a report's page. They are files of the package, in ``page/``."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from m2ib_lightning.results.drawing import heat_colours
from m2ib_lightning.results.unit_colours import unit_colour

FOLDER = Path(__file__).parent / "page"

SCRIPTS = (
    "values.js",
    "elements.js",
    "charts.js",
    "picture.js",
    "exhibits.js",
    "rows.js",
    "overview.js",
    "comparison.js",
    "training.js",
    "report.js",
)
"""Files of the script, in the order in which they are joined."""


@cache
def style() -> str:
    """Return the style sheet."""
    return (FOLDER / "report.css").read_text(encoding="utf-8")


@cache
def script() -> str:
    """Return the script: its files, joined in one function, so that they leave no global names."""
    files = "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{files}\nstart();\n}})();\n'


@cache
def colours() -> dict[str, list[list[int]]]:
    """Return the colours that the page shares with the pictures: those of heat, lowest first, and those of units."""
    heat = heat_colours(np.linspace(0, 1, 33)).round().astype(int).tolist()
    return {"heat": heat, "units": [list(unit_colour(index)) for index in range(8)]}
