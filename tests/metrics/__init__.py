"""Tests of ``m2ib_lightning.metrics``."""
