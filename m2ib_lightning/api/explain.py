"""``explain``: one call from a picture and a caption to an explanation, without a Trainer and without files."""

from __future__ import annotations

from typing import Any, Literal, overload

from typing_extensions import Unpack

from m2ib_lightning.api.explain_options import Options, takes_options
from m2ib_lightning.api.explaining import explain_request
from m2ib_lightning.api.request import parse_request
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.pairs.images import ImageLike
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.result_list import ResultList


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
@takes_options
def explain(
    image: ImageLike | list[Any],
    text: str | list[str] | None = None,
    *,
    target: Any = None,
    ensemble: bool = False,
    against: str | None = None,
    **options: Unpack[Options],
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
        method: the attribution method, with its options after a colon: ``m2ib``, ``gradcam:image_layer=3``,
            ``rise:samples=1000``; see ``m2ib_lightning.methods``. Only ``m2ib`` gives nats and curves.
        layer: block after which both towers are cut, from 0; -1 stands for the first block's input.
        beta: weight of the information, per nat, in both towers.
        sigma: scale of the noise, in both towers.
        granularity: gates of both towers, ``element`` or ``token``.
        prior: distribution of the noise in both towers, ``unit`` or ``data``.
        steps: number of Adam steps.
        preset: values of the settings that are not given: ``recommended`` for those of the model's folder, else
            the published ones; ``published`` for those of the paper.
        bottleneck: settings of one tower, and all others, as in the YAML: ``{"image": {"layer": 8}, "lr": 0.5}``.
        statistics: layer statistics for ``prior="data"``, or the file of a run that holds them. They are needed if
            the model folder has none.
        fit: how pictures fit the model's input: ``crop``, ``pad`` or ``stretch``; None for the model's own way.
        seed: seed of the noise.
        batch_size: number of pairs that run at a time. It changes no result.
        device: device to compute on; None for the model's own.
        dtype: dtype to compute in, ``torch.float32`` or ``torch.float64``.

    Returns:
        One ``Attribution`` for a single image with a caption, a target or an ensemble. Lists as arguments give a list
        in the same order, which displays itself in a notebook.

    Raises:
        TypeError: if an argument is unknown; names the nearest.
        M2IBError: if the model, a setting, an image or a caption is invalid. In a list, a pair with an invalid image or
            caption is returned with its ``error`` instead.
    """
    request = parse_request(image, text, target=target, ensemble=ensemble, against=against)
    results = explain_request(request, options)
    if request.many:
        return ResultList(results)
    if results[0].error is not None:
        raise M2IBError(results[0].error)
    return results[0]
