"""Public import path of ``differences``, which compares the tables of two runs."""

from m2ib_lightning.run.differences import differences

__all__ = ["differences"]
