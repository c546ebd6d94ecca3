"""Public import path of the model families and ``register_family``."""

from m2ib_lightning.encoder.families import (
    About,
    Family,
    FromModel,
    TowerSpec,
    family_of,
    register_family,
)

__all__ = ["About", "Family", "FromModel", "TowerSpec", "family_of", "register_family"]
