"""Loading of models, and the folder of the bundled one."""

from m2ib_lightning.models.load import LoadedModel, load_model

__all__ = ["LoadedModel", "load_model"]
