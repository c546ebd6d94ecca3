"""Tests of ``m2ib_lightning.m2ib``."""
