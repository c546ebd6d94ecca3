"""Methods that remove parts of the input and compare cosines: occlusion, RISE, KernelSHAP.

A removed part of a picture has pixels of 0 (the mean colour, after normalisation). A removed word has the mean of all
word embeddings. Every pair of a run loses the same parts.

Legend: B pairs, N samples, H x W pixels, T tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor
from typing_extensions import override

from m2ib_lightning.config import MODALITIES, Modality
from m2ib_lightning.encoder.patches import gather, spread
from m2ib_lightning.m2ib.seeding import seeded
from m2ib_lightning.methods.by_name import register_method
from m2ib_lightning.methods.libraries import captum
from m2ib_lightning.methods.method import Context, SaliencyMethod, at_least
from m2ib_lightning.methods.scorer import Clean, Words
from m2ib_lightning.pairs.pair import PairBatch

Score = Callable[[Tensor], Tensor]
"""Function from the share of each part that stays, (N, parts) in [0, 1], to the cosines (N,)."""


class Occlusion(SaliencyMethod):
    """Occlusion (Zeiler and Fergus, ECCV 2014) by Captum: the mean drop of the cosine over the windows on a patch.

    A window is 2 x 2 patches and moves by one patch. A caption loses one token at a time (Captum's feature ablation).
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        captum()  # fail early

    @override
    @torch.no_grad()
    def image_saliency(self, batch: PairBatch, clean: Clean) -> Tensor:
        def cosine(pixels: Tensor, target: Tensor) -> Tensor:
            return F.cosine_similarity(self.scorer.images(pixels), target, dim=-1)

        pixels, grid = self.scorer.pixels(batch), self.scorer.grid(batch)
        patch_height, patch_width = pixels.shape[-2] // grid[0], pixels.shape[-1] // grid[1]
        window = (3, min(2, grid[0]) * patch_height, min(2, grid[1]) * patch_width)
        drop = (
            captum()
            .Occlusion(cosine)
            .attribute(
                pixels,
                window,
                strides=(3, patch_height, patch_width),
                additional_forward_args=(clean.target("image"),),
                perturbations_per_eval=max(1, self.scorer.at_a_time("image") // len(pixels)),
            )
        )
        return gather(drop.mean(1), grid)

    @override
    @torch.no_grad()
    def text_saliency(self, batch: PairBatch, clean: Clean) -> Tensor:
        words = self.scorer.words(batch)
        tokens = words.words.shape[1]
        drop = (
            captum()
            .FeatureAblation(self.scorer.caption_cosine(words))
            .attribute(
                words.hidden.z,
                words.hidden.z.where(~words.words[..., None], words.absent),
                additional_forward_args=(clean.target("text"), words.rows),
                feature_mask=torch.arange(tokens, device=words.words.device)[None, :, None],
                perturbations_per_eval=max(1, self.scorer.at_a_time("text") // len(words.words)),
            )
        )
        return drop[..., 0]


class Sampling(SaliencyMethod):
    """Base of RISE and KernelSHAP: one pair at a time, many samples.

    Args:
        context: the model and the settings to build on.
        samples: number N of samples.
    """

    random = True

    def __init__(self, context: Context, *, samples: int = 300) -> None:
        super().__init__(context)
        self.samples = at_least("samples", samples, 2)

    @override
    @torch.no_grad()
    def image_saliency(self, batch: PairBatch, clean: Clean) -> Tensor:
        pixels, grid = self.scorer.pixels(batch), self.scorer.grid(batch)
        maps = []
        for picture, target in zip(pixels, clean.target("image"), strict=True):
            score = partial(self._score_picture, picture, target, grid)
            maps.append(self.explain_picture(score, grid, picture))
        return torch.stack(maps)

    @override
    @torch.no_grad()
    def text_saliency(self, batch: PairBatch, clean: Clean) -> Tensor:
        words = self.scorer.words(batch)
        result = words.hidden.z.new_zeros(words.words.shape)
        for row, length in enumerate(words.hidden.layout.lengths()):
            score = partial(self._score_words, words.one(row, length), clean.target("text")[row])
            positions = words.words[row].nonzero()[:, 0]
            result[row, positions] = self.explain_words(score, len(positions), result)
        return result

    def _score_picture(self, picture: Tensor, target: Tensor, grid: tuple[int, int], amount: Tensor) -> Tensor:
        """Return the cosines (N,) of altered pictures; ``amount``, (N, patches) or (N, H, W), is what stays."""
        size = (picture.shape[-2], picture.shape[-1])
        masks = amount if amount.ndim == 3 else spread(amount.unflatten(1, grid), size)
        chunks = masks.split(self.scorer.at_a_time("image"))
        embeddings = [self.scorer.images(picture * chunk[:, None]) for chunk in chunks]
        return F.cosine_similarity(torch.cat(embeddings), target, dim=-1)

    def _score_words(self, words: Words, target: Tensor, amount: Tensor) -> Tensor:
        """Return the cosines (N,) of altered captions; ``amount``, (N, words), is the share that stays."""
        per_token = amount.new_ones(len(amount), 1, words.words.shape[1])
        per_token[:, :, words.words[0]] = amount[:, None]
        layout = words.hidden.layout.repeated(len(amount))
        return F.cosine_similarity(self.scorer.captions(words.keep(per_token)[:, 0], layout), target, dim=-1)

    @abstractmethod
    def explain_picture(self, score: Score, grid: tuple[int, int], picture: Tensor) -> Tensor:
        """Return the map (grid_h, grid_w) of a picture (3, H, W)."""

    @abstractmethod
    def explain_words(self, score: Score, count: int, like: Tensor) -> Tensor:
        """Return the map (count,) of a caption of ``count`` words, in the type and on the device of ``like``."""

    def generator(self, modality: Modality) -> np.random.Generator:
        """Return a generator keyed by the seed and the tower; every pair gets the same samples."""
        return np.random.default_rng([self.context.seed, MODALITIES.index(modality)])


class RISE(Sampling):
    r"""RISE (Petsiuk, Das and Saenko, BMVC 2018): :math:`\frac{1}{N p} \sum_k c(x \odot M_k) \, M_k`, p = 0.5.

    A mask is a random grid of at most 7 x 7 cells, scaled up bilinearly and shifted at random, as in the authors' code;
    they draw 4,000 to 8,000 masks. A token of a caption stays with probability p (the paper has no captions). A
    patch's value is the mean of its pixels.

    Args:
        context: the model and the settings to build on.
        samples: number N of masks.
    """

    _KEEP = 0.5
    _CELLS = 7

    def __init__(self, context: Context, *, samples: int = 300) -> None:
        super().__init__(context, samples=samples)
        self._cached: tuple[tuple[int, ...], Tensor] | None = None

    @override
    def explain_picture(self, score: Score, grid: tuple[int, int], picture: Tensor) -> Tensor:
        sizes = (*grid, *picture.shape[-2:])
        if self._cached is None or self._cached[0] != sizes or self._cached[1].device != picture.device:
            self._cached = sizes, self._masks(grid, (picture.shape[-2], picture.shape[-1])).to(picture)
        masks = self._cached[1].to(picture)
        scores = score(masks)
        return gather(torch.einsum("n,nhw->hw", scores, masks)[None] / (self.samples * self._KEEP), grid)[0]

    @override
    def explain_words(self, score: Score, count: int, like: Tensor) -> Tensor:
        # One row of draws per word, so that a longer caption changes no word's draws.
        stays = self.generator("text").random((count, self.samples)).T < self._KEEP
        masks = torch.from_numpy(stays.astype(np.float32)).to(like)
        return score(masks) @ masks / (self.samples * self._KEEP)

    def _masks(self, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """Draw masks (N, H, W) in [0, 1]."""
        rng = self.generator("image")
        cells = min(self._CELLS, *grid)
        cell_height, cell_width = -(-size[0] // cells), -(-size[1] // cells)  # rounded up
        coarse = torch.from_numpy((rng.random((self.samples, 1, cells, cells)) < self._KEEP).astype(np.float32))
        upsampled_size = ((cells + 1) * cell_height, (cells + 1) * cell_width)
        upsampled = F.interpolate(coarse, upsampled_size, mode="bilinear")[:, 0]
        shifts = rng.integers(0, [cell_height, cell_width], (self.samples, 2)).tolist()
        return torch.stack([m[y : y + size[0], x : x + size[1]] for m, (y, x) in zip(upsampled, shifts, strict=True)])


class KernelSHAP(Sampling):
    """KernelSHAP (Lundberg and Lee, NeurIPS 2017) by Captum: Shapley values of patches, or tokens, by regression.

    Captum regresses in float32, whatever the model's type.

    Args:
        context: the model and the settings to build on.
        samples: number N of coalitions; 0 for the larger of 300 and five per patch or token. With as many samples as
            patches the regression would only interpolate.
    """

    def __init__(self, context: Context, *, samples: int = 0) -> None:
        super().__init__(context, samples=samples or 300)
        self._adaptive = samples == 0
        captum()  # fail early

    @override
    def explain_picture(self, score: Score, grid: tuple[int, int], picture: Tensor) -> Tensor:
        values = self._shapley(score, grid[0] * grid[1], picture, "image")
        return values.unflatten(0, grid)

    @override
    def explain_words(self, score: Score, count: int, like: Tensor) -> Tensor:
        return self._shapley(score, count, like, "text")

    def _shapley(self, score: Score, parts: int, like: Tensor, modality: Modality) -> Tensor:
        everything = like.new_ones(1, parts)
        difference = score(everything) - score(1 - everything)
        if parts == 1 or not difference.isfinite():  # a single part gets it all; the regression refuses NaN
            return difference.expand(parts)
        samples = max(self.samples, 5 * parts) if self._adaptive else self.samples
        with seeded((self.context.seed * 2 + MODALITIES.index(modality)) % 2**63):
            values: Tensor = (
                captum()
                .KernelShap(score)
                .attribute(
                    everything,
                    n_samples=samples,
                    perturbations_per_eval=self.scorer.at_a_time(modality),
                )
            )
        return values[0].to(like)


register_method("occlusion", Occlusion)
register_method("rise", RISE)
register_method("kernelshap", KernelSHAP)
