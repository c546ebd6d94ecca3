"""``ground``: which unit of a caption goes with which patch of its picture?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

from typing_extensions import Unpack

from m2ib_lightning.api.explain_options import Options, takes_options
from m2ib_lightning.api.explaining import explain_request
from m2ib_lightning.api.request import parse_request
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.pairs.images import ImageLike
from m2ib_lightning.pairs.units.unit_rule import UnitRule, UnitTarget
from m2ib_lightning.results.grounding import Grounding
from m2ib_lightning.results.result_list import ResultList


# The second signature also accepts the arguments of the first, hence the ignored overlap.
@overload
def ground(  # type: ignore[overload-overlap]
    image: ImageLike,
    text: str,
    *,
    units: str | Sequence[tuple[int, int]] = ...,
    target: UnitTarget = ...,
    against: str | None = ...,
    **options: Unpack[Options],
) -> Grounding: ...
@overload
def ground(
    image: ImageLike | list[Any],
    text: str | list[str],
    *,
    units: str | Sequence[Sequence[tuple[int, int]]] = ...,
    target: UnitTarget = ...,
    against: str | None = ...,
    **options: Unpack[Options],
) -> ResultList[Grounding]: ...
@takes_options
def ground(
    image: Any,
    text: Any,
    *,
    units: str | Sequence[Any] = "phrases",
    target: UnitTarget = "difference",
    against: str | None = None,
    **options: Unpack[Options],
) -> Grounding | ResultList[Grounding]:
    r"""Find the part of a picture that goes with each unit of its caption: each phrase, each word, or each given span.

    A unit's map is that of the caption, with another target for the picture. By default it is what the caption loses
    without the unit u,

    .. math::
        \frac{e(c) - e(c \setminus u)}{\lVert e(c) - e(c \setminus u) \rVert},

    with e the normalised embeddings of the text tower. W units cost W more optimisations of the picture, which share
    all else with that of the caption.

    Args:
        image: a picture as ``explain`` takes it, or a list of them.
        text: a caption; or a list with one caption per image, or with several captions for one image.
        units: ``phrases`` (content words between function words, for English), ``words`` (content words), or
            ``spacy:PIPELINE`` (noun chunks); or a list of spans (start, end) in characters of the caption. For a list
            of pairs, a list with the spans of each.
        target: ``difference`` (above), ``alone`` for e(u), or ``contrast`` for e(u) - e(against).
        against: the other text of ``contrast``.
        options: those of ``explain``, from ``model`` to ``dtype``.

    Returns:
        One ``Grounding`` for a single image with a caption; for lists, a list in the same order. A caption that is one
        phrase has no units of a rule: its map is that of the whole caption, ``whole``.

    Raises:
        TypeError: if an argument is unknown; names the nearest.
        M2IBError: if the model, a setting, an image, a caption or a span is invalid. In a list, a pair with an invalid
            image, caption or span is returned with ``whole.error`` instead.
    """
    spans = None if isinstance(units, str) else units
    rule = UnitRule("phrases" if spans is not None else str(units), target, against)
    if text is None:
        raise M2IBError("ground() needs a caption: its units are parts of the caption")
    request = parse_request(image, text, spans=spans)
    results = [Grounding(whole) for whole in explain_request(request, options, units=rule)]
    if request.many:
        return ResultList(results)
    if results[0].whole.error is not None:
        raise M2IBError(results[0].whole.error)
    return results[0]
