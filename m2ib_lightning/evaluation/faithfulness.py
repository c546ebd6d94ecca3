"""The numbers that ask the model: what happens to the cosine when parts are taken away as a map says.

Legend: B pairs, S points of a curve, H x W pixels, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor

from m2ib_lightning.config import MODALITIES, Modality
from m2ib_lightning.encoder.patches import spread
from m2ib_lightning.methods.scorer import Clean, Scorer
from m2ib_lightning.metrics import area_under, confidence_drop, confidence_increase, map_mass, normalised_area
from m2ib_lightning.pairs.pair import PairBatch
from m2ib_lightning.pairs.prepare import Preparer
from m2ib_lightning.results.attribution import Attribution, min_max

_POINTS = 16
"""Parts that a curve is cut into, or as many as there are patches or words."""

_LEAST = 0.05
"""How much lower than the whole's the cosine of the empty pair must be, for a curve between them to mean something."""


class Faithfulness:
    """Scores of the maps of a batch; each method returns a list of numbers, one per pair, by name.

    Args:
        scorer: at work.
        preparer: of the same model.
    """

    def __init__(self, scorer: Scorer, preparer: Preparer) -> None:
        self.scorer = scorer
        self.preparer = preparer

    @torch.no_grad()
    def confidence(self, batch: PairBatch, clean: Clean, results: Sequence[Attribution]) -> dict[str, list[float]]:
        """Confidence drop and increase as pytorch-grad-cam has them, on the cosine, and the mass of the maps.

        The picture, as the model gets it, is multiplied by its heatmap (bilinear, min-max), so that 0 is the mean
        colour. A word's embedding is mixed with the mean of all, as much as its heatmap says; special tokens stay. NaN
        for a map that is the same everywhere (of a caption of one word, for instance): min-max makes it zeros.
        """
        heat = self.heatmaps(batch, results)  # (B, H, W)
        image = self._image_cosine(self.scorer.pixels(batch) * heat[:, None], clean)
        words, amount = self.scorer.words(batch), self._word_heat(batch, results)
        z, pooled = words.keep(amount), words.hidden.pooled
        text = F.cosine_similarity(self.scorer.captions(z, pooled), clean.target("text"), dim=-1)
        mass = [float(result.text_heatmap.mean()) for result in results]
        flat = {m: torch.tensor([_is_flat(r, m) for r in results], device=image.device) for m in MODALITIES}
        image, text = image.masked_fill(flat["image"], torch.nan), text.masked_fill(flat["text"], torch.nan)
        return {
            "image_drop": confidence_drop(clean.similarity, image).tolist(),
            "image_increase": _or_nan(confidence_increase(clean.similarity, image), image).tolist(),
            "image_map_mass": [float(map_mass(one)) for one in heat],
            "text_drop": confidence_drop(clean.similarity, text).tolist(),
            "text_increase": _or_nan(confidence_increase(clean.similarity, text), text).tolist(),
            "text_map_mass": mass,
        }

    @torch.no_grad()
    def curves(self, batch: PairBatch, clean: Clean, results: Sequence[Attribution]) -> dict[str, list[float]]:
        """Insertion and deletion (RISE), patch by patch and word by word, in falling order of saliency.

        Each as it is (``*_raw``: the mean cosine along the way), and normalised by the cosine of the whole and of the
        empty pair, which become 1 and 0; NaN where taking all away lowers the cosine by less than 0.05. Equal patches
        go in an order that is drawn once. The blur that pictures begin with is as wide as a patch: RISE's (sigma 5 of
        224 pixels) hides little from a ViT.
        """
        saliency = torch.from_numpy(np.stack([result.image_saliency for result in results])).flatten(1)
        pixels, grid = self.scorer.pixels(batch), self.scorer.grid(batch)
        blurred = blur(pixels, pixels.shape[-1] / grid[1])
        kept = _kept(saliency).to(pixels)  # (S, B, patches)
        masks = spread(kept.unflatten(-1, grid), (pixels.shape[-2], pixels.shape[-1]))[:, :, None]
        target = clean.target("image")
        deleted = self._cosines(pixels * (1 - masks), target)
        inserted = self._cosines(torch.lerp(blurred, pixels, masks), target)
        lengths = self.scorer.lengths(batch.inputs["text"])
        texts = [self._text_curves(batch, row, lengths[row], clean, result) for row, result in enumerate(results)]
        scores = _insertion_and_deletion(inserted, deleted, "image")
        return scores | {name: [text[name][0] for text in texts] for name in texts[0]}

    @torch.no_grad()
    def reference(self, batch: PairBatch, clean: Clean, results: Sequence[Attribution]) -> dict[str, list[float]]:
        """What the published evaluation code computes, times 100 as it does; see ``docs/evaluation.md``.

        The first row of the heatmap stands for all its rows. Of the caption the special tokens are stripped, also for
        the score before, so that the tower pools whatever token it then takes for the end; words not above the median
        become id 0.
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
        """(B, H, W) in [0, 1], over the model's input: bilinear, then min-max; zeros for a constant map."""
        pixels = self.scorer.pixels(batch)
        maps = torch.from_numpy(np.stack([result.image_saliency for result in results])).to(pixels)
        large = F.interpolate(maps[:, None], pixels.shape[-2:], mode="bilinear")[:, 0]
        low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
        return (large - low) / (high - low).where(high > low, torch.ones_like(high))

    def _image_cosine(self, pixels: Tensor, clean: Clean) -> Tensor:
        return F.cosine_similarity(self.scorer.images(pixels), clean.target("image"), dim=-1)

    def _cosines(self, pixels: Tensor, target: Tensor) -> Tensor:
        """(S, B, 3, H, W) to (S, B)."""
        embeddings = self.scorer.images(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2])
        return F.cosine_similarity(embeddings, target, dim=-1)

    def _word_heat(self, batch: PairBatch, results: Sequence[Attribution]) -> Tensor:
        """(B, T) in [0, 1]."""
        amount = torch.zeros(batch.inputs["text"]["input_ids"].shape)
        for row, (pair, result) in enumerate(zip(batch.pairs, results, strict=True)):
            amount[row, pair.token_positions] = torch.from_numpy(result.text_heatmap).to(amount)
        return amount.to(self.scorer.pixels(batch))

    def _text_curves(
        self, batch: PairBatch, row: int, length: int, clean: Clean, result: Attribution
    ) -> dict[str, list[float]]:
        kept = _kept(torch.from_numpy(result.text_saliency)[None])[:, 0] > 0  # (S, words)
        ids = batch.inputs["text"]["input_ids"][row, :length].tolist()
        said = [_without(ids, batch.pairs[row].token_positions, keep) for keep in torch.cat([kept, ~kept]).tolist()]
        inputs = {name: tensor.to(self.scorer.device) for name, tensor in self.preparer.pad(said).items()}
        cosines = F.cosine_similarity(self.scorer.tokens(inputs), clean.target("text")[row], dim=-1)
        inserted, deleted = cosines[:, None].chunk(2)
        return _insertion_and_deletion(inserted, deleted, "text")

    def _reference_text(self, batch: PairBatch, row: int, clean: Clean, result: Attribution) -> tuple[Tensor, Tensor]:
        """The cosine before and after."""
        heat = min_max(result.text_saliency)
        words = batch.inputs["text"]["input_ids"][row, batch.pairs[row].token_positions]
        keep = torch.from_numpy(heat > np.percentile(heat, 50)).to(words)
        embedded = torch.cat([self.scorer.tokens({"input_ids": ids[None]}) for ids in (words, words * keep)])
        before, after = F.cosine_similarity(embedded, clean.target("text")[row], dim=-1)
        return before, after


def _is_flat(result: Attribution, modality: Modality) -> bool:
    saliency = result.image_saliency if modality == "image" else result.text_saliency
    return bool(saliency.min() == saliency.max())


def _or_nan(values: Tensor, where: Tensor) -> Tensor:
    return values.masked_fill(where.isnan(), torch.nan)


def blur(pixels: Tensor, sigma: float) -> Tensor:
    """(N, 3, H, W) with a Gaussian of that many pixels; edges are repeated."""
    reach = max(1, round(2 * sigma))
    places = torch.arange(-reach, reach + 1, device=pixels.device, dtype=pixels.dtype)
    kernel = torch.exp(-0.5 * (places / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)
    padded = F.pad(pixels, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel[..., None], groups=3), kernel[:, :, None], groups=3)


def _kept(saliency: Tensor) -> Tensor:
    """(B, parts) to (S, B, parts) of 0 and 1: nothing at first, then more and more of the highest, then all."""
    parts = saliency.shape[1]
    points = min(parts, _POINTS)
    mixed = torch.from_numpy(np.random.default_rng(parts).permutation(parts))  # ties go in an order of no meaning
    order = mixed[saliency[:, mixed].argsort(dim=1, descending=True, stable=True)]
    places = order.argsort(dim=1)  # of each part in the order
    counts = torch.tensor([round(k * parts / points) for k in range(points + 1)])
    return (places < counts[:, None, None]).float()


def _without(ids: Sequence[int], places: Sequence[int], keep: Sequence[bool]) -> list[int]:
    """The caption without some of its words; its special tokens stay."""
    gone = {place for place, kept in zip(places, keep, strict=True) if not kept}
    return [token for place, token in enumerate(ids) if place not in gone]


def _insertion_and_deletion(inserted: Tensor, deleted: Tensor, what: str) -> dict[str, list[float]]:
    """The areas under curves (S, B)."""
    return {
        **_areas(inserted, clean=inserted[-1], empty=inserted[0], name=f"{what}_insertion"),
        **_areas(deleted, clean=deleted[0], empty=deleted[-1], name=f"{what}_deletion"),
    }


def _areas(curve: Tensor, *, clean: Tensor, empty: Tensor, name: str) -> dict[str, list[float]]:
    rows, clean, empty = curve.T.double().cpu(), clean.double().cpu(), empty.double().cpu()
    areas = normalised_area(rows, clean, empty)
    areas[clean - empty < _LEAST] = torch.nan
    return {name: areas.tolist(), f"{name}_raw": area_under(rows).tolist()}
