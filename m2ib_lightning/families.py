"""Public import path of the model families and ``register_family``."""

from m2ib_lightning.encoder.families import Family, TowerSpec, family_of, register_family

__all__ = ["Family", "TowerSpec", "family_of", "register_family"]
