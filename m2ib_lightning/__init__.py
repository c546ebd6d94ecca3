"""M2IB on PyTorch Lightning: what in this picture, and which words of this caption, made the model match them?"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from m2ib_lightning.api.explain import explain as explain
    from m2ib_lightning.api.ground_units import ground as ground
    from m2ib_lightning.datamodules import CaptionsDataModule as CaptionsDataModule
    from m2ib_lightning.datamodules import ScenesDataModule as ScenesDataModule
    from m2ib_lightning.datamodules import register_datamodule as register_datamodule
    from m2ib_lightning.encoder.families import register_family as register_family
    from m2ib_lightning.errors import M2IBError as M2IBError
    from m2ib_lightning.finetuning import IBClipModule as IBClipModule
    from m2ib_lightning.m2ib.bottleneck import InformationBottleneck as InformationBottleneck
    from m2ib_lightning.m2ib.settings import BottleneckSettings as BottleneckSettings
    from m2ib_lightning.methods import register_method as register_method
    from m2ib_lightning.models import load_model as load_model
    from m2ib_lightning.models.catalogue import list_models as list_models
    from m2ib_lightning.results.attribution import Attribution as Attribution
    from m2ib_lightning.results.grid import save_grid as save_grid
    from m2ib_lightning.results.grounding import Grounding as Grounding
    from m2ib_lightning.run.m2ib_module import M2IBModule as M2IBModule
    from m2ib_lightning.run.precision import half_precision as half_precision
    from m2ib_lightning.run.table import load_attributions as load_attributions

__version__ = "0.1.0"

# Names are imported on first use, because `m2ib-fit --help` and the error of a typo need neither torch nor Lightning.
_MODULES = {
    "Attribution": "results.attribution",
    "BottleneckSettings": "m2ib.settings",
    "CaptionsDataModule": "datamodules",
    "Grounding": "results.grounding",
    "IBClipModule": "finetuning",
    "InformationBottleneck": "m2ib.bottleneck",
    "M2IBError": "errors",
    "M2IBModule": "run.m2ib_module",
    "ScenesDataModule": "datamodules",
    "explain": "api.explain",
    "ground": "api.ground_units",
    "half_precision": "run.precision",
    "list_models": "models.catalogue",
    "load_attributions": "run.table",
    "load_model": "models",
    "register_datamodule": "datamodules",
    "register_family": "encoder.families",
    "register_method": "methods",
    "save_grid": "results.grid",
}

__all__ = ["__version__", *sorted(_MODULES)]


def __dir__() -> list[str]:
    return [*globals(), *_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}, only {', '.join(_MODULES)}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
