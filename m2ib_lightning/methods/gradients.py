"""Gradients at the input, by Captum: saliency, input x gradient, integrated gradients.

Image gradients are taken at the model's input pixels and reduced over channels and patches. Text gradients are taken
at the word embeddings and reduced over channels. An absent pixel is 0 (the mean colour, after normalisation); an absent
word has the mean embedding of the vocabulary.

Legend: B pairs, H x W pixels, T tokens, D width.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor
from typing_extensions import override

from m2ib_lightning.encoder.patches import gather
from m2ib_lightning.methods.by_name import register_method
from m2ib_lightning.methods.libraries import captum
from m2ib_lightning.methods.method import Context, SaliencyMethod, at_least
from m2ib_lightning.methods.scorer import Clean
from m2ib_lightning.pairs.pair import PairBatch


class InputGradient(SaliencyMethod):
    """Base of the methods at the input: a Captum attribution of the pair's cosine.

    Args:
        context: the model and the settings to build on.

    Raises:
        M2IBError: if Captum is not installed.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        captum()  # fail early

    @override
    def image_saliency(self, batch: PairBatch, clean: Clean) -> Tensor:
        def cosine(pixels: Tensor, target: Tensor) -> Tensor:
            return F.cosine_similarity(self.scorer.images(pixels), target, dim=-1)

        pixels = self.scorer.pixels(batch)
        values = self.attribute(cosine, pixels, pixels * 0, (clean.target("image"),))
        return gather(self.over_colours(values), self.scorer.grid(batch))

    @override
    def text_saliency(self, batch: PairBatch, clean: Clean) -> Tensor:
        words = self.scorer.words(batch)
        absent = words.hidden.z.where(~words.words[..., None], words.absent)
        extra = (clean.target("text"), words.rows)
        return self.over_width(self.attribute(self.scorer.caption_cosine(words), words.hidden.z, absent, extra))

    @abstractmethod
    def attribute(self, cosine: Any, inputs: Tensor, absent: Tensor, extra: tuple[Tensor, ...]) -> Tensor:
        """Return Captum's attributions, shaped like the inputs.

        Args:
            cosine: function from the inputs and ``extra`` to the pairs' cosines (B,).
            inputs: pixels (B, 3, H, W) or word embeddings (B, T, D).
            absent: inputs with every pixel, or word, absent.
            extra: further arguments of ``cosine``.
        """

    def over_colours(self, values: Tensor) -> Tensor:
        """Reduce an image's attributions over its channels, (B, 3, H, W) to (B, H, W)."""
        return values.sum(1)

    def over_width(self, values: Tensor) -> Tensor:
        """Reduce a caption's attributions over its channels, (B, T, D) to (B, T)."""
        return values.sum(-1)


class Saliency(InputGradient):
    """The magnitude of the gradient (Simonyan, Vedaldi and Zisserman, 2014).

    A pixel's value is its largest absolute gradient over channels. A word's value is the Euclidean norm of its gradient
    (Li et al., NAACL 2016). The authors' maps have one value per pixel; these have patch means.
    """

    @override
    def attribute(self, cosine: Any, inputs: Tensor, absent: Tensor, extra: tuple[Tensor, ...]) -> Tensor:
        return captum().Saliency(cosine).attribute(inputs.detach().requires_grad_(), additional_forward_args=extra)

    @override
    def over_colours(self, values: Tensor) -> Tensor:
        return values.amax(1)

    @override
    def over_width(self, values: Tensor) -> Tensor:
        return values.norm(dim=-1)


class InputXGradient(InputGradient):
    """Input times gradient (Shrikumar et al., 2016), summed over channels, signed.

    The input is taken as its difference from the absent input.
    """

    @override
    def attribute(self, cosine: Any, inputs: Tensor, absent: Tensor, extra: tuple[Tensor, ...]) -> Tensor:
        def shifted(difference: Tensor, absent: Tensor, *rest: Tensor) -> Tensor:
            return cosine(absent + difference, *rest)

        difference = (inputs - absent).requires_grad_()
        return captum().InputXGradient(shifted).attribute(difference, additional_forward_args=(absent, *extra))


class IntegratedGradients(InputGradient):
    """Integrated gradients (Sundararajan, Taly and Yan, ICML 2017) from the absent input to the input, signed.

    The attributions sum to the difference between the cosines of the two inputs.

    Args:
        context: the model and the settings to build on.
        steps: number of points of the Gauss-Legendre quadrature.
    """

    def __init__(self, context: Context, *, steps: int = 32) -> None:
        super().__init__(context)
        self.steps = at_least("steps", steps, 1)

    @override
    def attribute(self, cosine: Any, inputs: Tensor, absent: Tensor, extra: tuple[Tensor, ...]) -> Tensor:
        integrated = captum().IntegratedGradients(cosine)
        rows = max(32, len(inputs))
        return integrated.attribute(
            inputs, absent, additional_forward_args=extra, n_steps=self.steps, internal_batch_size=rows
        )


register_method("saliency", Saliency)
register_method("input_x_gradient", InputXGradient)
register_method("integrated_gradients", IntegratedGradients)
