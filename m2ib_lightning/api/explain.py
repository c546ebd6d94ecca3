"""``explain``: one call from a picture and a caption to an explanation, without a Trainer and without files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypedDict, overload

import torch
from typing_extensions import Unpack

from m2ib_lightning.api.request import Request, parse_request
from m2ib_lightning.errors import M2IBError, PairError
from m2ib_lightning.m2ib.explainer import resolve
from m2ib_lightning.m2ib.statistics import Statistics
from m2ib_lightning.methods import Context, Method, make_method
from m2ib_lightning.models import LoadedModel, load_model
from m2ib_lightning.models.load import wrap_model
from m2ib_lightning.pairs.images import ImageLike, read_image
from m2ib_lightning.pairs.prepare import Preparer
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.scenes.painter import CANVAS


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


# The last signature also accepts the arguments of the first two, hence the two ignored overlaps.
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
    model: str | Path | LoadedModel | Any = None,
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
    """Explain which parts of a picture and which words of its caption made the model match them.

    Args:
        image: a path, bytes, a PIL image or an array; or a list of them.
        text: a caption; or a list with one caption per image, or with several captions for one image.
        target: an embedding (E,) to explain the image against instead of a caption, or one per image (N, E). The
            result then has no text part.
        ensemble: whether to explain each image against all captions at once (a prompt ensemble). The target is the
            mean of their normalised embeddings. The result has no text part.
        model: ``scenes``, a Hugging Face folder, a hub id, ``openai:FILE``, a ``LoadedModel``, or a loaded Hugging Face
            model with its ``processor``. The model is never changed. Only for pictures of 64 x 64 pixels, such as
            those of the synthetic scenes, it may be left out: the bundled ``scenes`` knows nothing else.
        processor: the processor of a loaded Hugging Face model.
        bottleneck: settings to override, as in the YAML: ``{"image": {"layer": 8}, "steps": 20}``. Other settings
            are those that the model folder recommends, else the published values.
        statistics: layer statistics for ``prior="data"``, or the file of a run that holds them. They are needed if
            the model folder has none.
        method: the attribution method, with its options after a colon: ``m2ib``, ``gradcam:image_layer=3``,
            ``rise:samples=1000``; see ``m2ib_lightning.methods``. Only ``m2ib`` gives nats and curves.
        fit: how pictures fit the model's input: ``crop``, ``pad`` or ``stretch``; None for the model's own way.
        seed: seed of the noise.
        batch_size: number of pairs that run at a time. It changes no result.
        device: device to compute on; None for the model's own.
        dtype: dtype to compute in, ``torch.float32`` or ``torch.float64``.

    Returns:
        One ``Attribution`` for a single image with a caption, a target or an ensemble. Lists as arguments give a list
        in the same order.

    Raises:
        M2IBError: if the model, a setting, an image or a caption is invalid. In a list, a pair with an invalid image or
            caption is returned with its ``error`` instead.
    """
    if batch_size < 1:
        raise M2IBError(f"batch_size must be at least 1, got {batch_size}")
    if dtype not in (torch.float32, torch.float64):
        raise M2IBError(f"dtype must be torch.float32 or torch.float64, got {dtype!r}")
    # The optimisation needs gradients, and the caller may have switched them off.
    with torch.inference_mode(False), torch.enable_grad():
        request = parse_request(image, text, target=target, ensemble=ensemble)
        loaded = _load(_named(model, request), processor)
        settings = resolve(loaded.preset.override(bottleneck or {}), loaded.encoder)
        overrides = Statistics.load(statistics) if isinstance(statistics, str | Path) else statistics
        if overrides is not None:
            overrides.check(loaded.encoder, f"statistics={'...' if overrides is statistics else statistics}")
        priors = loaded.statistics if overrides is None else loaded.statistics.updated(overrides)
        attributor = make_method(method, Context(loaded, settings, priors, seed=seed))
        with attributor.at_work(_device(loaded, device), dtype):
            results = _explain(attributor, loaded.preparer.with_options(fit=fit), request, batch_size)
    if request.many:
        return results
    if results[0].error is not None:
        raise M2IBError(results[0].error)
    return results[0]


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
    for pair in request.pairs:
        try:
            width, height = read_image(pair.image)[0].size if pair.image is not None else (CANVAS, CANVAS)
        except PairError:
            continue  # it becomes the error of its pair
        if (width, height) != (CANVAS, CANVAS):
            raise M2IBError(
                f"explain() needs model= for this picture of {width} x {height} pixels: the bundled model 'scenes' "
                f"knows only synthetic scenes of {CANVAS} x {CANVAS}. Give a Hugging Face folder, a hub id such as "
                "model='openai/clip-vit-base-patch32', or a loaded model with its processor=; model='scenes' tries the "
                "bundled one all the same"
            )
    return "scenes"


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
