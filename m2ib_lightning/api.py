"""One call from a picture and a caption to an explanation; no Trainer, no files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, overload

import torch

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.explainer import Explainer, resolve
from m2ib_lightning.frozen import frozen
from m2ib_lightning.images import ImageLike
from m2ib_lightning.models import LoadedModel, load_model
from m2ib_lightning.models.load import wrap_model
from m2ib_lightning.pairs import RawPair
from m2ib_lightning.prepare import PairDataset
from m2ib_lightning.statistics import Statistics


@overload
def explain(
    image: ImageLike,
    text: str,
    *,
    model: str | Path | LoadedModel | Any = ...,
    processor: Any = ...,
    bottleneck: dict[str, Any] | None = ...,
    statistics: Statistics | str | Path | None = ...,
    seed: int = ...,
    batch_size: int = ...,
    device: str | torch.device | None = ...,
    dtype: torch.dtype = ...,
) -> Attribution: ...
@overload
def explain(
    image: list[Any],
    text: list[str],
    *,
    model: str | Path | LoadedModel | Any = ...,
    processor: Any = ...,
    bottleneck: dict[str, Any] | None = ...,
    statistics: Statistics | str | Path | None = ...,
    seed: int = ...,
    batch_size: int = ...,
    device: str | torch.device | None = ...,
    dtype: torch.dtype = ...,
) -> list[Attribution]: ...
def explain(
    image: ImageLike | list[Any],
    text: str | list[str],
    *,
    model: str | Path | LoadedModel | Any = "scenes",
    processor: Any = None,
    bottleneck: dict[str, Any] | None = None,
    statistics: Statistics | str | Path | None = None,
    seed: int = 0,
    batch_size: int = 8,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Attribution | list[Attribution]:
    """What in this picture, and which words of this caption, made the model match them?

    Args:
        image: a path, bytes, a PIL image or an array; or a list of them.
        text: a caption; or a list, one per image.
        model: ``scenes``, a Hugging Face folder, a hub id, a ``LoadedModel``, or a loaded Hugging Face model with its
            ``processor``. It is never changed.
        processor: with a loaded model.
        bottleneck: settings to override, as in the YAML: ``{"image": {"layer": 8}, "steps": 20}``. What is not said
            is the model folder's recommendation, else the published value.
        statistics: for ``prior="data"`` where the model's folder has none: a file that a run has written.
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
    loaded = _load(model, processor)
    settings = resolve(loaded.preset.override(bottleneck or {}), loaded.encoder)
    given = Statistics.load(statistics) if isinstance(statistics, str | Path) else statistics
    known = loaded.statistics if given is None else loaded.statistics.updated(given)
    explainer = Explainer(loaded.encoder, settings, seed=seed, statistics=known)
    many = not isinstance(text, str) or isinstance(image, list | tuple)
    pairs = _pairs(image, text) if many else [_pair(0, image, text)]
    results = _explain(explainer, loaded, pairs, batch_size, device, dtype)
    if many:
        return results
    if results[0].error is not None:
        raise M2IBError(results[0].error)
    return results[0]


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


def _pairs(images: Any, texts: Any) -> list[RawPair]:
    if not isinstance(images, list | tuple) or not isinstance(texts, list | tuple):
        raise M2IBError(
            "give one image and one caption, or a list of images and a list of captions of the same length, "
            f"got {type(images).__name__} and {type(texts).__name__}"
        )
    if len(images) != len(texts):
        raise M2IBError(f"there must be one caption per image, got {len(images)} images and {len(texts)} captions")
    return [_pair(index, image, text) for index, (image, text) in enumerate(zip(images, texts, strict=True))]


def _pair(index: int, image: Any, text: Any) -> RawPair:
    if not isinstance(text, str):
        raise M2IBError(f"caption {index} must be a string, got {type(text).__name__}")
    uri = str(image) if isinstance(image, str | Path) else f"image {index}"
    return RawPair(key=f"explain:{index}", image=image, uri=uri, caption=text)


def _explain(
    explainer: Explainer,
    loaded: LoadedModel,
    pairs: list[RawPair],
    batch_size: int,
    device: str | torch.device | None,
    dtype: torch.dtype,
) -> list[Attribution]:
    preparer = loaded.preparer
    dataset = PairDataset(pairs, preparer, pictures=-1)
    home = next(loaded.encoder.model.parameters()).device
    device = home if device is None else torch.device(device)
    explainer.bottlenecks.to(device=device, dtype=dtype)
    optimizer = explainer.optimizer()
    results: dict[str, Attribution] = {}
    with frozen(loaded.encoder.model, device, dtype):
        for start in range(0, len(pairs), batch_size):
            items = [dataset[index] for index in range(start, min(start + batch_size, len(pairs)))]
            for result in explainer(preparer.collate(items).to(device), optimizer):
                results[result.pair.key] = result
    return [results[pair.key] for pair in pairs]
