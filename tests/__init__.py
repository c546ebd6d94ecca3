"""Tests, in the package's folders: one file per concept, and ``reference.py``, the slow oracle."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The checkout."""
