"""The class of a model folder: what its configuration names, not what the ``model_type`` suggests."""

from __future__ import annotations

from typing import Any

import transformers

from m2ib_lightning.encoder.families.family import family_of_class
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.models.unwrap import CONTAINERS


def model_class(config: Any) -> Any:
    """Return the class that the weights of a folder are of, if its family is supported.

    It is the class that ``architectures`` in ``config.json`` names, of transformers or registered with ``AutoModel``.
    ``AutoModel`` alone may take another one: for the folder of a BLIP retrieval model it makes a ``BlipModel``, whose
    text tower finds no weights. Without ``architectures`` it is the class of ``AutoModel``.

    Args:
        config: the folder's configuration.

    Raises:
        M2IBError: if there is no such class, or its family is not supported.
    """
    names = getattr(config, "architectures", None) or []
    name = str(names[0]) if names else None
    model = getattr(transformers, name, None) if name else None
    if not isinstance(model, type):
        model = _from_auto_model(config)
        if model is None or name not in (None, model.__name__):
            raise M2IBError(
                f"config.json names the class {name!r} (model_type {getattr(config, 'model_type', None)!r}), which "
                f"transformers {transformers.__version__} does not have. Register a class of your own with "
                "AutoModel.register, or save the weights as a class that --models lists"
            )
    explained = CONTAINERS[model.__name__].holds if model.__name__ in CONTAINERS else model.__name__
    family_of_class([explained, *(base.__name__ for base in model.__mro__[1:])], config)
    return model


def _from_auto_model(config: Any) -> Any:
    try:
        model = transformers.MODEL_MAPPING[type(config)]
    except KeyError:
        return None
    return model[0] if isinstance(model, list | tuple) else model
