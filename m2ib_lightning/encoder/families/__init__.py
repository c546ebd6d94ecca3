"""Model families: what differs between them is data in a registry, one file per family, each registering itself."""

from importlib import import_module
from pkgutil import iter_modules

from m2ib_lightning.encoder.families.family import Family, TowerSpec, family_of, register_family

__all__ = ["Family", "TowerSpec", "family_of", "register_family"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
