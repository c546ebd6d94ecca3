"""The numbers that need a method to be run again: other seeds, small noise, random weights, other captions.

Legend: B pairs, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from m2ib_lightning.errors import PairError
from m2ib_lightning.metrics import max_sensitivity, spearman
from m2ib_lightning.metrics.map_scores import against_mask
from m2ib_lightning.pairs.pair import PairBatch
from m2ib_lightning.pairs.prepare import Preparer
from m2ib_lightning.pairs.truth import OtherCaption
from m2ib_lightning.results.attribution import Attribution, Floats

Explain = Callable[[PairBatch], list[Attribution]]
Scores = list[dict[str, float]]
"""Of each pair of a batch, in its order."""

_NOISES = 3
_RADIUS = 0.05
"""Of the noise on the model's input, whose pixels have a deviation of about 1."""


def correlations(before: Sequence[Attribution], after: Sequence[Attribution], name: str) -> Scores:
    """Spearman's, of the image's maps and of the words', as ``image_<name>`` and ``text_<name>``."""
    return [
        {
            f"image_{name}": correlation(one.image_saliency, other.image_saliency),
            f"text_{name}": correlation(one.text_saliency, other.text_saliency),
        }
        if one.error is None and other.error is None
        else {}
        for one, other in zip(before, after, strict=True)
    ]


def correlation(before: Floats, after: Floats) -> float:
    """Spearman's; NaN where the first map is the same everywhere, 0 where only the second is."""
    if before.min() < before.max() and after.min() == after.max():
        return 0.0
    return float(spearman(torch.from_numpy(before), torch.from_numpy(after)))


def sensitivity(explain: Explain, batch: PairBatch, results: Sequence[Attribution], seed: int) -> Scores:
    """The largest relative change of the image's map under uniform noise on the model's input (Yeh et al., 2019)."""
    pixels = batch.inputs["image"]["pixel_values"]
    noisy = [explain(_with_pixels(batch, pixels + noise.to(pixels))) for noise in _noises(pixels, seed)]
    scores: Scores = []
    for row, result in enumerate(results):
        others = [run[row] for run in noisy]
        if result.error is not None or any(other.error is not None for other in others):
            scores.append({})
            continue
        maps = torch.from_numpy(np.stack([other.image_saliency for other in others]))
        scores.append({"image_sensitivity": float(max_sensitivity(torch.from_numpy(result.image_saliency), maps))})
    return scores


def _noises(pixels: Tensor, seed: int) -> list[Tensor]:
    """The same for every pair."""
    rng = np.random.default_rng([seed, 7])
    shape = (_NOISES, *pixels.shape[1:])
    return list(torch.from_numpy(rng.uniform(-_RADIUS, _RADIUS, shape).astype(np.float32)))


def _with_pixels(batch: PairBatch, pixels: Tensor) -> PairBatch:
    return PairBatch(batch.pairs, [], {**batch.inputs["image"], "pixel_values": pixels}, batch.inputs["text"])


def prompts(explain: Explain, batch: PairBatch, results: Sequence[Attribution], preparer: Preparer) -> Scores:
    """Each pair with its other captions: does the map follow them, and does the loss notice?

    Returns:
        ``prompt_<kind>`` (Spearman's against the map of the true caption), ``prompt_pointing`` where the other object's
        place is known, and the final losses ``loss_matched`` and ``loss_shuffled`` of a method that has a loss.
    """
    scores: Scores = [{} for _ in results]
    kinds = {other.kind for pair in batch.pairs if pair.truth is not None for other in pair.truth.others}
    for kind in sorted(kinds - {"given"}):  # those are for training
        chosen = [(row, other) for row in range(len(batch)) if (other := _other(batch, row, kind)) is not None]
        altered, rows = _with_captions(batch, chosen, preparer)
        for (row, other), answer in zip(rows, explain(altered) if rows else [], strict=True):
            if answer.error is None and results[row].error is None:
                scores[row] |= _prompted(results[row], answer, other)
    return scores


def _other(batch: PairBatch, row: int, kind: str) -> OtherCaption | None:
    truth = batch.pairs[row].truth
    return None if truth is None else next((other for other in truth.others if other.kind == kind), None)


def _with_captions(
    batch: PairBatch, chosen: Sequence[tuple[int, OtherCaption]], preparer: Preparer
) -> tuple[PairBatch, list[tuple[int, OtherCaption]]]:
    """The chosen pairs with those captions, and which they are; a caption that can't be read is left out."""
    kept, captions, pairs = [], [], []
    for row, other in chosen:
        try:
            ids, read = preparer.read_caption(other.text)
        except PairError:
            continue
        kept.append((row, other))
        captions.append(list(ids))
        pairs.append(replace(batch.pairs[row], caption=other.text, **read))
    if not kept:
        return batch, []
    some = batch.some([row for row, _ in kept])
    device = batch.inputs["text"]["input_ids"].device
    text = {name: tensor.to(device) for name, tensor in preparer.pad(captions).items()}
    return PairBatch(pairs, [], some.inputs["image"], text), kept


def _prompted(true: Attribution, answer: Attribution, other: OtherCaption) -> dict[str, float]:
    if other.kind == "shuffled":
        matched, shuffled = true.final_loss, answer.final_loss
        if matched is None or shuffled is None:
            return {}
        return {"loss_matched": matched, "loss_shuffled": shuffled}
    scores = {f"prompt_{other.kind}": correlation(true.image_saliency, answer.image_saliency)}
    if other.mask is not None and other.kind == "present":
        scores["prompt_pointing"] = against_mask(answer, other.mask)["image_pointing"]
    return scores
