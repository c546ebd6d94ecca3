"""Tests of ``m2ib_lightning.pairs.shards``."""
