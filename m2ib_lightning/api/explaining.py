"""What ``explain`` and ``ground`` share: they load the model, build the method, and explain the pairs of a request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from m2ib_lightning.api.explain_options import Options, bottleneck_values, complete
from m2ib_lightning.api.request import Request
from m2ib_lightning.errors import M2IBError, PairError
from m2ib_lightning.m2ib.explainer import resolve
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.m2ib.statistics import Statistics
from m2ib_lightning.methods import Context, Method, make_method
from m2ib_lightning.models import LoadedModel, load_model
from m2ib_lightning.models.load import wrap_model
from m2ib_lightning.pairs.images import read_image
from m2ib_lightning.pairs.prepare import Preparer
from m2ib_lightning.pairs.units.unit_rule import UnitRule
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.scenes.painter import CANVAS


def explain_request(request: Request, options: Options, units: UnitRule | None = None) -> list[Attribution]:
    """Explain the pairs of a request.

    Args:
        request: the pairs.
        options: those of ``explain``; its docstring says what they mean.
        units: how the units of the captions are found; None for results without units.

    Returns:
        One result per pair, failed ones included.

    Raises:
        M2IBError: if the model or a setting is invalid.
    """
    options = complete(options)
    # The optimisation needs gradients, and the caller may have switched them off.
    with torch.inference_mode(False), torch.enable_grad():
        loaded = _load(_named(options["model"], request), options["processor"])
        base = loaded.preset if options["preset"] == "recommended" else BottleneckSettings()
        settings = resolve(base.override(bottleneck_values(options)), loaded.encoder)
        context = Context(loaded, settings, _priors(loaded, options["statistics"]), seed=options["seed"])
        attributor = make_method(options["method"], context)
        preparer = loaded.preparer.with_options(fit=options["fit"], units=units)
        with attributor.at_work(_device(loaded, options["device"]), options["dtype"]):
            return _explain(attributor, preparer, request, options["batch_size"])


def _priors(loaded: LoadedModel, statistics: Statistics | str | Path | None) -> Statistics:
    """Return the statistics of the model's folder, updated with those that were given."""
    if statistics is None:
        return loaded.statistics
    given = statistics if isinstance(statistics, Statistics) else Statistics.load(statistics)
    given.check(loaded.encoder, f"statistics={'...' if given is statistics else statistics}")
    return loaded.statistics.updated(given)


def _device(loaded: LoadedModel, device: str | torch.device | None) -> torch.device:
    """Return the device to compute on, after a small tensor has shown that it works."""
    if device is None:
        return next(loaded.encoder.model.parameters()).device
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises AssertionError
        raise M2IBError(f"device={str(device)!r} can't be used: {str(error).splitlines()[0]}") from None
    return torch.device(device)


def _named(model: Any, request: Request) -> Any:
    """Return the model, or the bundled one if none is named and every picture may be one of its scenes.

    Raises:
        M2IBError: if a picture is not, and no model is named.
    """
    if model is not None:
        return model
    size = size_unlike_scenes(request)
    if size is not None:
        raise M2IBError(
            f"explain() needs model= for this picture of {size[0]} x {size[1]} pixels: the bundled model 'scenes' "
            f"knows only synthetic scenes of {CANVAS} x {CANVAS}. Give a Hugging Face folder, a hub id such as "
            "model='openai/clip-vit-base-patch32', or a loaded model with its processor=; model='scenes' tries the "
            "bundled one all the same"
        )
    return "scenes"


def size_unlike_scenes(request: Request) -> tuple[int, int] | None:
    """Return the width and height of the first picture that is no scene of the bundled model; None if all may be."""
    for pair in request.pairs:
        try:
            size = read_image(pair.image)[0].size if pair.image is not None else (CANVAS, CANVAS)
        except PairError:
            continue  # it becomes the error of its pair
        if size != (CANVAS, CANVAS):
            return size
    return None


def _load(model: Any, processor: Any) -> LoadedModel:
    brings_processor = isinstance(model, LoadedModel | str | Path)
    if brings_processor and processor is not None:
        raise M2IBError("processor= goes with a loaded Hugging Face model; a folder and a LoadedModel have their own")
    if isinstance(model, LoadedModel):
        return model
    if isinstance(model, str | Path):
        return load_model(str(model))
    if processor is None:
        raise M2IBError("a loaded model needs its processor: explain(..., model=model, processor=processor)")
    return wrap_model(model, processor)


def _explain(method: Method, preparer: Preparer, request: Request, batch_size: int) -> list[Attribution]:
    encoder = method.context.model.encoder
    like = next(encoder.model.parameters())
    results: list[Attribution] = []
    targets = request.targets(encoder, preparer, like)
    for start in range(0, len(request.pairs), batch_size):
        batch = request.batch(preparer, range(start, min(start + batch_size, len(request.pairs))), targets)
        results += method(batch.to(like.device))
    return results
