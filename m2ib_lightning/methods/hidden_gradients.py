"""Gradients at a hidden state: Grad-CAM and NIB.

Legend: B pairs, T tokens, D width.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor
from typing_extensions import override

from m2ib_lightning.config import Modality
from m2ib_lightning.encoder.layout import Hidden
from m2ib_lightning.methods.by_name import register_method
from m2ib_lightning.methods.method import Context, SaliencyMethod, at_least
from m2ib_lightning.methods.scorer import Clean
from m2ib_lightning.pairs.pair import PairBatch


class HiddenGradient(SaliencyMethod):
    """Base of the methods that combine a tower's hidden state with the gradient of the cosine at it.

    Args:
        context: the model and the settings to build on.
        image_layer: block of the image tower, from 0, whose output is read; -1 reads the first block's input.
        text_layer: block of the text tower, counted the same way.
    """

    def __init__(self, context: Context, *, image_layer: int | None = None, text_layer: int | None = None) -> None:
        super().__init__(context)
        options: dict[Modality, int | None] = {"image": image_layer, "text": text_layer}
        self.layers: dict[Modality, int] = {
            modality: context.model.encoder.towers[modality].resolve_layer(
                self.default_layer(modality) if option is None else option
            )
            for modality, option in options.items()
        }

    @abstractmethod
    def default_layer(self, modality: Modality) -> int:
        """Return the block whose output is read if no option sets it."""

    @override
    def image_saliency(self, batch: PairBatch, clean: Clean) -> Tensor:
        prefix_tokens = self.context.model.encoder.towers["image"].spec.prefix_tokens
        hidden = self._hidden("image", batch)
        used = hidden.valid.clone()
        used[:, :prefix_tokens] = False
        return self.saliency("image", hidden, clean.target("image"), used)[:, prefix_tokens:]

    @override
    def text_saliency(self, batch: PairBatch, clean: Clean) -> Tensor:
        words = self.scorer.words(batch).words
        return self.saliency("text", self._hidden("text", batch), clean.target("text"), words)

    @abstractmethod
    def saliency(self, modality: Modality, hidden: Hidden, target: Tensor, used: Tensor) -> Tensor:
        """Return the maps (B, T) of a tower; ``used`` (B, T) is True for patches, or for the caption's own tokens."""

    def gradient(self, modality: Modality, hidden: Hidden, target: Tensor, scale: float = 1.0) -> Tensor:
        """Return the gradient (B, T, D) of the cosine at ``scale`` times the hidden states."""
        tower = self.context.model.encoder.towers[modality]
        with torch.enable_grad():
            z = (scale * hidden.z).detach().requires_grad_()
            cosine = F.cosine_similarity(tower.suffix(z, self.layers[modality], hidden.layout), target, dim=-1)
            return torch.autograd.grad(cosine.sum(), z)[0]

    def _hidden(self, modality: Modality, batch: PairBatch) -> Hidden:
        return self.context.model.encoder.towers[modality].prefix(batch.inputs[modality], self.layers[modality])


class GradCAM(HiddenGradient):
    r"""Grad-CAM (Selvaraju et al., ICCV 2017) on tokens: :math:`\mathrm{relu}(\sum_d w_d h_{td})`.

    :math:`w_d` is the gradient's mean over the patches, or over the caption's tokens. The paper reads a convolution. By
    default this reads the input of the last block, as is usual for ViTs: in its output only the pooled token counts.
    """

    @override
    def default_layer(self, modality: Modality) -> int:
        return len(self.context.model.encoder.towers[modality].blocks) - 2

    @override
    def saliency(self, modality: Modality, hidden: Hidden, target: Tensor, used: Tensor) -> Tensor:
        gradient = self.gradient(modality, hidden, target)
        share = used / used.sum(1, keepdim=True)  # (B, T)
        weights = torch.einsum("bt,btd->bd", share.to(gradient), gradient)
        return torch.einsum("bd,btd->bt", weights, hidden.z).relu()


class NIB(HiddenGradient):
    r"""The narrowing information bottleneck (Zhu et al., ICLR 2025), as in the authors' code.

    The map is the integrated gradients of the hidden state h from zero, as a right Riemann sum:
    :math:`\frac1n \sum_{i=1}^n \sum_d h_{td} \, \partial c / \partial x_{td}` at :math:`x = (i/n) h`. The values stay
    raw and signed; the authors scale them to [0, 1]. They cut at the *input* of block 9 of 12 (``image_layer=8`` here).
    By default the cut is the bottleneck's, so that the two methods can be compared.

    Args:
        context: the model and the settings to build on.
        image_layer: block of the image tower, from 0, whose output is cut.
        text_layer: block of the text tower, counted the same way.
        steps: number n of gradients, the points of the sum.
    """

    def __init__(
        self, context: Context, *, image_layer: int | None = None, text_layer: int | None = None, steps: int = 10
    ) -> None:
        super().__init__(context, image_layer=image_layer, text_layer=text_layer)
        self.steps = at_least("steps", steps, 1)

    @override
    def default_layer(self, modality: Modality) -> int:
        return self.context.model.encoder.towers[modality].resolve_layer(self.context.settings.tower(modality).layer)

    @override
    def saliency(self, modality: Modality, hidden: Hidden, target: Tensor, used: Tensor) -> Tensor:
        total = torch.zeros_like(hidden.z)
        for step in range(1, self.steps + 1):
            total += self.gradient(modality, hidden, target, step / self.steps)
        return (hidden.z * total).sum(-1) / self.steps


register_method("gradcam", GradCAM)
register_method("nib", NIB)
