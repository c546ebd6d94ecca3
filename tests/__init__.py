"""Tests: one file per concept of the library, and ``reference.py``, the slow oracle."""
