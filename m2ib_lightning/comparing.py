"""Whether two runs have the same table: ``differences``."""

from m2ib_lightning.run.differences import differences

__all__ = ["differences"]
