"""Tests of ``m2ib_lightning.api``."""
