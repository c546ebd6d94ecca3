"""Model families: what differs between them is data in a registry, one file per family."""

from m2ib_lightning.families import clip as _clip  # noqa: F401 - registers itself
from m2ib_lightning.families.registry import Family, TowerSpec, family_of, register_family

__all__ = ["Family", "TowerSpec", "family_of", "register_family"]
