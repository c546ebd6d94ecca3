"""Faithfulness: how the cosine changes when the parts that a map marks are removed or kept.

Legend: B pairs, S points of a curve, H x W pixels, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor

from m2ib_lightning.config import MODALITIES, Modality
from m2ib_lightning.encoder.patches import spread
from m2ib_lightning.methods.scorer import Clean, Scorer
from m2ib_lightning.metrics import area_under, confidence_drop, confidence_increase, map_mass, normalised_area
from m2ib_lightning.metrics.scaling import min_max
from m2ib_lightning.pairs.pair import PairBatch
from m2ib_lightning.pairs.prepare import Preparer
from m2ib_lightning.results.attribution import Attribution

_MAX_STEPS = 16
"""Largest number of steps of a curve; a map with fewer patches or words has fewer steps."""

_MIN_DROP = 0.05
"""Smallest difference between the cosines of the whole and the empty pair that defines a normalised area."""


class Faithfulness:
    """Computes the faithfulness of the maps of a batch.

    Each public measure returns lists of one number per pair, by name.

    Args:
        scorer: runner of the model, inside its ``at_work``.
        preparer: maker of the same model's inputs.
    """

    def __init__(self, scorer: Scorer, preparer: Preparer) -> None:
        self.scorer = scorer
        self.preparer = preparer

    @torch.no_grad()
    def confidence(self, batch: PairBatch, clean: Clean, results: Sequence[Attribution]) -> dict[str, list[float]]:
        """Measure the cosine's drop and increase in confidence, as in pytorch-grad-cam, and the mass of the maps.

        The model's input picture is multiplied by its heatmap (bilinear, min-max), so that 0 gives the mean colour.
        Each word's embedding is mixed with the mean of all embeddings in the proportion of its heatmap; special tokens
        stay. The heatmap of a constant map, such as that of a one-word caption, is all zeros; drop and increase are
        then NaN.
        """
        heat = self.heatmaps(batch, results)  # (B, H, W)
        image = self._image_cosine(self.scorer.pixels(batch) * heat[:, None], clean)
        words = self.scorer.words(batch)
        kept = self.scorer.captions(words.keep(self._word_heat(batch, results)), words.hidden.layout)
        text = F.cosine_similarity(kept, clean.target("text"), dim=-1)
        constant = {m: torch.tensor([_is_constant(r, m) for r in results], device=image.device) for m in MODALITIES}
        image, text = image.masked_fill(constant["image"], torch.nan), text.masked_fill(constant["text"], torch.nan)
        return {
            "image_drop": confidence_drop(clean.similarity, image).tolist(),
            "image_increase": confidence_increase(clean.similarity, image).tolist(),
            "image_map_mass": [float(map_mass(heatmap)) for heatmap in heat],
            "text_drop": confidence_drop(clean.similarity, text).tolist(),
            "text_increase": confidence_increase(clean.similarity, text).tolist(),
            "text_map_mass": [float(result.text_heatmap.mean()) for result in results],
        }

    def curves(self, batch: PairBatch, clean: Clean, results: Sequence[Attribution]) -> dict[str, list[float]]:
        """Measure insertion and deletion (RISE), patch by patch and word by word, in falling order of saliency.

        ``*_raw`` is the mean cosine along the curve. The other areas are normalised, so that the cosine of the whole
        pair is 1 and that of the empty pair 0; they are NaN where removing everything lowers the cosine by less than
        0.05. Tied parts come in one fixed random order. Insertion starts from a blur as wide as a patch. RISE's blur
        (sigma 5 of 224 pixels) hides little from a ViT.
        """
        return areas(self.cosine_curves(batch, clean, results))

    @torch.no_grad()
    def cosine_curves(self, batch: PairBatch, clean: Clean, results: Sequence[Attribution]) -> dict[str, list[Tensor]]:
        """Return the cosines along the curves, whose areas ``curves`` measures: by name, (S) float64 for each pair."""
        saliency = torch.from_numpy(np.stack([result.image_saliency for result in results])).flatten(1)
        pixels, grid = self.scorer.pixels(batch), self.scorer.grid(batch)
        blurred = blur(pixels, pixels.shape[-1] / grid[1])
        highest = _highest(saliency).to(pixels)  # (S, B, patches)
        masks = spread(highest.unflatten(-1, grid), (pixels.shape[-2], pixels.shape[-1]))[:, :, None]
        target = clean.target("image")
        deleted = self._cosines(pixels * (1 - masks), target)
        inserted = self._cosines(torch.lerp(blurred, pixels, masks), target)
        lengths = self.scorer.lengths(batch.inputs["text"])
        texts = [self._text_curves(batch, row, lengths[row], clean, result) for row, result in enumerate(results)]
        return {
            "image_insertion": list(inserted.T.double().cpu()),
            "image_deletion": list(deleted.T.double().cpu()),
            "text_insertion": [insertion for insertion, _ in texts],
            "text_deletion": [deletion for _, deletion in texts],
        }

    @torch.no_grad()
    def reference(self, batch: PairBatch, clean: Clean, results: Sequence[Attribution]) -> dict[str, list[float]]:
        """Measure what the published evaluation code computes, times 100 as there; see ``docs/evaluation.md``.

        That code multiplies the picture by the first row of its heatmap. It always strips the caption's special tokens,
        so that the tower pools an arbitrary token. It sets the ids of words not above the median to 0.
        """
        heat = self.heatmaps(batch, results)
        image = self._image_cosine(self.scorer.pixels(batch) * heat[:, None, :1], clean)
        pairs = [self._reference_text(batch, row, clean, result) for row, result in enumerate(results)]
        before, after = torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs])
        return {
            "reference_image_drop": (100 * confidence_drop(clean.similarity, image)).tolist(),
            "reference_image_increase": (100 * confidence_increase(clean.similarity, image)).tolist(),
            "reference_text_drop": (100 * confidence_drop(before, after)).tolist(),
            "reference_text_increase": (100 * confidence_increase(before, after)).tolist(),
        }

    def heatmaps(self, batch: PairBatch, results: Sequence[Attribution]) -> Tensor:
        """Return heatmaps (B, H, W) in [0, 1] at the size of the model's input: bilinear, then min-max."""
        pixels = self.scorer.pixels(batch)
        maps = torch.from_numpy(np.stack([result.image_saliency for result in results])).to(pixels)
        resized = F.interpolate(maps[:, None], pixels.shape[-2:], mode="bilinear")[:, 0]
        return min_max(resized, (1, 2))

    def _image_cosine(self, pixels: Tensor, clean: Clean) -> Tensor:
        return F.cosine_similarity(self.scorer.images(pixels), clean.target("image"), dim=-1)

    def _cosines(self, pixels: Tensor, target: Tensor) -> Tensor:
        """Return the cosines (S, B) of pictures (S, B, 3, H, W)."""
        embeddings = self.scorer.images(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2])
        return F.cosine_similarity(embeddings, target, dim=-1)

    def _word_heat(self, batch: PairBatch, results: Sequence[Attribution]) -> Tensor:
        """Return the captions' heatmaps (B, T) in [0, 1], 0 for special tokens and padding."""
        amount = torch.zeros(batch.inputs["text"]["input_ids"].shape)
        for row, (pair, result) in enumerate(zip(batch.pairs, results, strict=True)):
            amount[row, pair.token_positions] = torch.from_numpy(result.text_heatmap).to(amount)
        return amount.to(self.scorer.pixels(batch))

    def _text_curves(
        self, batch: PairBatch, row: int, length: int, clean: Clean, result: Attribution
    ) -> tuple[Tensor, Tensor]:
        """Return the cosines (S) as the highest words of a caption are said, and as they are removed."""
        highest = _highest(torch.from_numpy(result.text_saliency)[None])[:, 0] > 0  # (S, words)
        ids = batch.inputs["text"]["input_ids"][row, :length].tolist()
        positions = batch.pairs[row].token_positions
        captions = [_selected(ids, positions, keep) for keep in torch.cat([highest, ~highest]).tolist()]
        inputs = {name: tensor.to(self.scorer.device) for name, tensor in self.preparer.pad(captions).items()}
        cosines = F.cosine_similarity(self.scorer.tokens(inputs), clean.target("text")[row], dim=-1)
        inserted, deleted = cosines.double().cpu().chunk(2)
        return inserted, deleted

    def _reference_text(self, batch: PairBatch, row: int, clean: Clean, result: Attribution) -> tuple[Tensor, Tensor]:
        """Return the cosines of a caption before and after its words are zeroed, both without special tokens."""
        heat = result.text_heatmap
        words = batch.inputs["text"]["input_ids"][row, batch.pairs[row].token_positions]
        keep = torch.from_numpy(heat > np.percentile(heat, 50)).to(words)
        embedded = torch.cat([self.scorer.tokens({"input_ids": ids[None]}) for ids in (words, words * keep)])
        before, after = F.cosine_similarity(embedded, clean.target("text")[row], dim=-1)
        return before, after


def _is_constant(result: Attribution, modality: Modality) -> bool:
    saliency = result.image_saliency if modality == "image" else result.text_saliency
    return bool(saliency.min() == saliency.max())


def blur(pixels: Tensor, sigma: float) -> Tensor:
    """Blur pictures (N, 3, H, W) by a Gaussian of ``sigma`` pixels; edges are repeated."""
    radius = max(1, round(2 * sigma))
    offsets = torch.arange(-radius, radius + 1, device=pixels.device, dtype=pixels.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)
    padded = F.pad(pixels, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel[..., None], groups=3), kernel[:, :, None], groups=3)


def _highest(saliency: Tensor) -> Tensor:
    """Mark the highest parts at each step of a curve: none at first, then more and more, then all.

    Args:
        saliency: (B, parts), raw values of patches or words.

    Returns:
        Masks (S, B, parts) of 0 and 1.
    """
    parts = saliency.shape[1]
    steps = min(parts, _MAX_STEPS)
    shuffled = torch.from_numpy(np.random.default_rng(parts).permutation(parts))  # gives ties a random order
    order = shuffled[saliency[:, shuffled].argsort(dim=1, descending=True, stable=True)]
    ranks = order.argsort(dim=1)
    counts = torch.tensor([round(step * parts / steps) for step in range(steps + 1)])
    return (ranks < counts[:, None, None]).float()


def _selected(ids: Sequence[int], positions: Sequence[int], keep: Sequence[bool]) -> list[int]:
    """Return the caption's ids without the words that ``keep`` rejects; special tokens stay.

    Args:
        ids: ids of the caption and its special tokens.
        positions: positions of the caption's own words in ``ids``.
        keep: whether each word stays.
    """
    removed = {position for position, stays in zip(positions, keep, strict=True) if not stays}
    return [token for position, token in enumerate(ids) if position not in removed]


def areas(curves: Mapping[str, Sequence[Tensor]]) -> dict[str, list[float]]:
    """Return the raw and the normalised areas under curves as ``cosine_curves`` returns them, by name."""
    scores: dict[str, list[float]] = {}
    for name, rows in curves.items():
        ends = [(row[0], row[-1]) if name.endswith("deletion") else (row[-1], row[0]) for row in rows]
        scores[name] = [_normalised(row, clean, empty) for row, (clean, empty) in zip(rows, ends, strict=True)]
        scores[f"{name}_raw"] = [float(area_under(row)) for row in rows]
    return scores


def _normalised(row: Tensor, clean: Tensor, empty: Tensor) -> float:
    return float("nan") if clean - empty < _MIN_DROP else float(normalised_area(row, clean, empty))
