"""Model families: a registry holds their differences as data, and each family has a file that registers it."""

from importlib import import_module
from pkgutil import iter_modules

from m2ib_lightning.encoder.families.family import (
    About,
    Family,
    FromModel,
    TowerSpec,
    family_of,
    register_family,
)

__all__ = ["About", "Family", "FromModel", "TowerSpec", "family_of", "register_family"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
