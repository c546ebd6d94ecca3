"""Probes, the measures that run a method again: other seeds, small noise, random weights, other captions.

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
"""Scores of each pair of a batch by name, in the batch's order."""

_NOISE_DRAWS = 3
_NOISE_RADIUS = 0.05
"""Half the width of the uniform noise on the model's input, whose pixels have a standard deviation of about 1."""


def correlations(before: Sequence[Attribution], after: Sequence[Attribution], name: str) -> Scores:
    """Compute Spearman's correlations between two runs of a method, as ``image_<name>`` and ``text_<name>``."""
    return [
        {
            f"image_{name}": correlation(first.image_saliency, second.image_saliency),
            f"text_{name}": correlation(first.text_saliency, second.text_saliency),
        }
        if first.error is None and second.error is None
        else {}
        for first, second in zip(before, after, strict=True)
    ]


def correlation(before: Floats, after: Floats) -> float:
    """Compute Spearman's correlation of two maps; NaN if the first is constant, 0 if only the second is."""
    if before.min() < before.max() and after.min() == after.max():
        return 0.0
    return float(spearman(torch.from_numpy(before), torch.from_numpy(after)))


def sensitivity(explain: Explain, batch: PairBatch, results: Sequence[Attribution], seed: int) -> Scores:
    """Compute the largest relative change of the image map under uniform noise on the input (Yeh et al., 2019)."""
    pixels = batch.inputs["image"]["pixel_values"]
    noisy = [explain(_with_pixels(batch, pixels + noise.to(pixels))) for noise in _noises(pixels, seed)]
    scores: Scores = []
    for row, result in enumerate(results):
        noisy_results = [results[row] for results in noisy]
        if any(each.error is not None for each in (result, *noisy_results)):
            scores.append({})
            continue
        maps = torch.from_numpy(np.stack([each.image_saliency for each in noisy_results]))
        scores.append({"image_sensitivity": float(max_sensitivity(torch.from_numpy(result.image_saliency), maps))})
    return scores


def _noises(pixels: Tensor, seed: int) -> list[Tensor]:
    """Draw several noise tensors (3, H, W), which all pairs share."""
    rng = np.random.default_rng([seed, 7])
    shape = (_NOISE_DRAWS, *pixels.shape[1:])
    return list(torch.from_numpy(rng.uniform(-_NOISE_RADIUS, _NOISE_RADIUS, shape).astype(np.float32)))


def _with_pixels(batch: PairBatch, pixels: Tensor) -> PairBatch:
    return PairBatch(batch.pairs, [], {**batch.inputs["image"], "pixel_values": pixels}, batch.inputs["text"])


def prompts(explain: Explain, batch: PairBatch, results: Sequence[Attribution], preparer: Preparer) -> Scores:
    """Measure how the maps and the loss follow the other captions of each pair.

    Returns:
        ``prompt_<kind>`` (Spearman's correlation with the map of the true caption), ``prompt_pointing`` where the mask
        of the other object is known, and the final losses ``loss_matched`` and ``loss_shuffled`` of a method that has a
        loss.
    """
    scores: Scores = [{} for _ in results]
    kinds = {other.kind for pair in batch.pairs if pair.truth is not None for other in pair.truth.others}
    for kind in sorted(kinds - {"given"}):  # captions given by the source are for training
        captions = [(row, other) for row in range(len(batch)) if (other := _other(batch, row, kind)) is not None]
        prompted, captions = with_captions(batch, captions, preparer)
        for (row, other), result in zip(captions, explain(prompted) if captions else [], strict=True):
            if result.error is None and results[row].error is None:
                scores[row] |= _prompt_scores(results[row], result, other)
    return scores


def _other(batch: PairBatch, row: int, kind: str) -> OtherCaption | None:
    truth = batch.pairs[row].truth
    return None if truth is None else next((other for other in truth.others if other.kind == kind), None)


def with_captions(
    batch: PairBatch, captions: Sequence[tuple[int, OtherCaption]], preparer: Preparer
) -> tuple[PairBatch, list[tuple[int, OtherCaption]]]:
    """Return a batch of the rows with their other captions, and those captions; unreadable ones are left out."""
    readable, ids, pairs = [], [], []
    for row, other in captions:
        try:
            tokens, fields = preparer.read_caption(other.text)
        except PairError:
            continue
        readable.append((row, other))
        ids.append(list(tokens))
        pairs.append(replace(batch.pairs[row], caption=other.text, **fields))
    if not readable:
        return batch, []
    images = batch.some([row for row, _ in readable]).inputs["image"]
    device = batch.inputs["text"]["input_ids"].device
    text = {name: tensor.to(device) for name, tensor in preparer.pad(ids).items()}
    return PairBatch(pairs, [], images, text), readable


def _prompt_scores(true: Attribution, prompted: Attribution, other: OtherCaption) -> dict[str, float]:
    if other.kind == "shuffled":
        matched, shuffled = true.final_loss, prompted.final_loss
        if matched is None or shuffled is None:
            return {}
        return {"loss_matched": matched, "loss_shuffled": shuffled}
    scores = {f"prompt_{other.kind}": correlation(true.image_saliency, prompted.image_saliency)}
    if other.mask is not None and other.kind == "present":
        scores["prompt_pointing"] = against_mask(prompted, other.mask)["image_pointing"]
    return scores
