"""``explain``: one call from a picture and a caption to an explanation, without a Trainer and without files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypedDict, overload

import torch
from typing_extensions import Unpack

from m2ib_lightning.api.explaining import explain_request
from m2ib_lightning.api.request import parse_request
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.m2ib.statistics import Statistics
from m2ib_lightning.models import LoadedModel
from m2ib_lightning.pairs.images import ImageLike
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.result_list import ResultList


class Options(TypedDict, total=False):
    """The options that ``explain`` and ``ground`` share."""

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
def explain(image: ImageLike, text: str, **options: Unpack[Options]) -> Attribution: ...  # type: ignore[overload-overlap]
@overload
def explain(  # type: ignore[overload-overlap]
    image: ImageLike, text: list[str], *, ensemble: Literal[True], **options: Unpack[Options]
) -> Attribution: ...
@overload
def explain(  # type: ignore[overload-overlap]
    image: ImageLike, text: str, *, against: str, **options: Unpack[Options]
) -> Attribution: ...
@overload
def explain(image: ImageLike, text: None = ..., *, target: Any, **options: Unpack[Options]) -> Attribution: ...
@overload
def explain(
    image: ImageLike | list[Any],
    text: str | list[str] | None = ...,
    *,
    target: Any = ...,
    ensemble: bool = ...,
    against: str | None = ...,
    **options: Unpack[Options],
) -> ResultList[Attribution]: ...
def explain(
    image: ImageLike | list[Any],
    text: str | list[str] | None = None,
    *,
    target: Any = None,
    ensemble: bool = False,
    against: str | None = None,
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
) -> Attribution | ResultList[Attribution]:
    """Explain which parts of a picture and which words of its caption made the model match them.

    Args:
        image: a path, bytes, a PIL image or an array; or a list of them.
        text: a caption; or a list with one caption per image, or with several captions for one image.
        target: an embedding (E,) to explain the image against instead of a caption, or one per image (N, E). The
            result then has no text part.
        ensemble: whether to explain each image against all captions at once (a prompt ensemble). The target is the
            mean of their normalised embeddings. The result has no text part.
        against: a text to set each caption against, as in ``explain(scan, "pneumonia", against="a healthy lung")``:
            which parts of the picture match the caption more than this text? The target is e(caption) - e(against),
            normalised, of normalised embeddings. The result has no text part.
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
        in the same order, which displays itself in a notebook.

    Raises:
        M2IBError: if the model, a setting, an image or a caption is invalid. In a list, a pair with an invalid image or
            caption is returned with its ``error`` instead.
    """
    request = parse_request(image, text, target=target, ensemble=ensemble, against=against)
    results = explain_request(
        request,
        model=model,
        processor=processor,
        bottleneck=bottleneck,
        statistics=statistics,
        method=method,
        fit=fit,
        seed=seed,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
    )
    if request.many:
        return ResultList(results)
    if results[0].error is not None:
        raise M2IBError(results[0].error)
    return results[0]
