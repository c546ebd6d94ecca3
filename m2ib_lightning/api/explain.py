"""One call from a picture and a caption to an explanation; no Trainer, no files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypedDict, overload

import torch
from typing_extensions import Unpack

from m2ib_lightning.api.request import Request, ask
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.m2ib.explainer import resolve
from m2ib_lightning.m2ib.statistics import Statistics
from m2ib_lightning.methods import Context, Method, make_method
from m2ib_lightning.models import LoadedModel, load_model
from m2ib_lightning.models.load import wrap_model
from m2ib_lightning.pairs.images import ImageLike
from m2ib_lightning.pairs.prepare import Preparer
from m2ib_lightning.results.attribution import Attribution


class _Options(TypedDict, total=False):
    model: Any
    processor: Any
    bottleneck: dict[str, Any] | None
    statistics: Statistics | str | Path | None
    method: str
    fit: str | None
    seed: int
    batch_size: int
    device: str | torch.device | None
    dtype: torch.dtype


# The last signature takes what the others leave; that it would also take theirs is what the two comments are for.
@overload
def explain(image: ImageLike, text: str, **options: Unpack[_Options]) -> Attribution: ...  # type: ignore[overload-overlap]
@overload
def explain(  # type: ignore[overload-overlap]
    image: ImageLike, text: list[str], *, ensemble: Literal[True], **options: Unpack[_Options]
) -> Attribution: ...
@overload
def explain(image: ImageLike, text: None = ..., *, target: Any, **options: Unpack[_Options]) -> Attribution: ...
@overload
def explain(
    image: ImageLike | list[Any],
    text: str | list[str] | None = ...,
    *,
    target: Any = ...,
    ensemble: bool = ...,
    **options: Unpack[_Options],
) -> list[Attribution]: ...
def explain(
    image: ImageLike | list[Any],
    text: str | list[str] | None = None,
    *,
    target: Any = None,
    ensemble: bool = False,
    model: str | Path | LoadedModel | Any = "scenes",
    processor: Any = None,
    bottleneck: dict[str, Any] | None = None,
    statistics: Statistics | str | Path | None = None,
    method: str = "m2ib",
    fit: str | None = None,
    seed: int = 0,
    batch_size: int = 8,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Attribution | list[Attribution]:
    """What in this picture, and which words of this caption, made the model match them?

    Args:
        image: a path, bytes, a PIL image or an array; or a list of them.
        text: a caption; or a list: one per image, or several for one image, each with a result of its own.
        target: in place of a caption, an embedding (E,) that the image is explained against, or one per image (N, E).
            There is no text result then.
        ensemble: explain the image against all captions at once: the target is the mean of their normalised
            embeddings (a prompt ensemble), and there is one image result and no text result.
        model: ``scenes``, a Hugging Face folder, a hub id, a ``LoadedModel``, or a loaded Hugging Face model with its
            ``processor``. It is never changed.
        processor: with a loaded model.
        bottleneck: settings to override, as in the YAML: ``{"image": {"layer": 8}, "steps": 20}``. What is not said
            is the model folder's recommendation, else the published value.
        statistics: for ``prior="data"`` where the model's folder has none: a file that a run has written.
        method: the attribution method, with its options after a colon: ``m2ib``, ``gradcam:image_layer=3``,
            ``rise:samples=1000``; see ``m2ib_lightning.methods``. Only ``m2ib`` gives nats and curves.
        fit: how pictures fit the model's input: ``crop``, ``pad`` or ``stretch``; None for the model's own way.
        seed: keys the noise.
        batch_size: pairs at a time; does not change a result.
        device: where to work; None for where the model is.
        dtype: float32, or float64.

    Returns:
        One ``Attribution``, or a list of them in the order given.

    Raises:
        M2IBError: if the model, a setting, an image or a caption is no good; of several pairs, the failed ones come
            back with ``error`` instead.
    """
    if batch_size < 1:
        raise M2IBError(f"batch_size must be at least 1, got {batch_size}")
    if dtype not in (torch.float32, torch.float64):
        raise M2IBError(f"dtype must be torch.float32 or torch.float64, got {dtype!r}")
    # Gradients are needed, also where the caller has switched them off.
    with torch.inference_mode(False), torch.enable_grad():
        loaded = _load(model, processor)
        request = ask(image, text, target=target, ensemble=ensemble)
        settings = resolve(loaded.preset.override(bottleneck or {}), loaded.encoder)
        given = Statistics.load(statistics) if isinstance(statistics, str | Path) else statistics
        known = loaded.statistics if given is None else loaded.statistics.updated(given)
        chosen = make_method(method, Context(loaded, settings, known, seed=seed))
        with chosen.at_work(_device(loaded, device), dtype):
            results = _explain(chosen, loaded.preparer.with_options(fit=fit), request, batch_size)
    if request.many:
        return results
    if results[0].error is not None:
        raise M2IBError(results[0].error)
    return results[0]


def _device(loaded: LoadedModel, device: str | torch.device | None) -> torch.device:
    if device is None:
        return next(loaded.encoder.model.parameters()).device
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise M2IBError(f"device={str(device)!r} can't be used: {str(error).splitlines()[0]}") from None
    return torch.device(device)


def _load(model: Any, processor: Any) -> LoadedModel:
    named = isinstance(model, LoadedModel | str | Path)
    if named and processor is not None:
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
