"""Methods that read attention: attention rollout, gradient-weighted relevance (Chefer), Grad-ECLIP.

Legend: B pairs, T tokens, D width, H heads.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor
from typing_extensions import override

from m2ib_lightning.config import Modality
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.methods.attention import Attention, Traced, check_attention, trace
from m2ib_lightning.methods.by_name import register_method
from m2ib_lightning.methods.method import Context, SaliencyMethod
from m2ib_lightning.methods.scorer import Clean
from m2ib_lightning.pairs.pair import PairBatch


class AttentionMap(SaliencyMethod):
    """Base of the methods whose maps come from a tower's attention, read at the pooled query.

    Args:
        context: the model and the settings to build on.
        image_layer: first block of the image tower that counts, from 0; None for the method's default.
        text_layer: first block of the text tower that counts, from 0; None for the method's default.
    """

    def __init__(self, context: Context, *, image_layer: int | None = None, text_layer: int | None = None) -> None:
        super().__init__(context)
        self.layers: dict[Modality, int] = {
            "image": self._first_layer("image", image_layer),
            "text": self._first_layer("text", text_layer),
        }
        for tower in context.model.encoder.towers.values():
            check_attention(tower)

    def default_layer(self, modality: Modality) -> int:
        """Return the first block that counts if no option sets it: the last block, unless a subclass overrides this."""
        return len(self.context.model.encoder.towers[modality].blocks) - 1

    def _first_layer(self, modality: Modality, option: int | None) -> int:
        depth = len(self.context.model.encoder.towers[modality].blocks)
        layer = self.default_layer(modality) if option is None else option
        if not 0 <= layer < depth:
            raise M2IBError(f"{modality}_layer={layer} is out of range: this tower has {depth} blocks, from 0")
        return layer

    @override
    def image_saliency(self, batch: PairBatch, clean: Clean) -> Tensor:
        tower = self.context.model.encoder.towers["image"]
        with torch.enable_grad():
            hidden = tower.prefix(batch.inputs["image"], -1)
            hidden.z.requires_grad_()
            prefix_tokens = tower.spec.prefix_tokens
            used = hidden.valid.clone()
            used[:, :prefix_tokens] = False
            traced = trace(tower, hidden)
            return self.saliency(traced, clean.target("image"), self.layers["image"], used)[:, prefix_tokens:]

    @override
    def text_saliency(self, batch: PairBatch, clean: Clean) -> Tensor:
        tower, words = self.context.model.encoder.towers["text"], self.scorer.words(batch)
        with torch.enable_grad():
            words.hidden.z.requires_grad_()
            return self.saliency(trace(tower, words.hidden), clean.target("text"), self.layers["text"], words.words)

    @abstractmethod
    def saliency(self, traced: Traced, target: Tensor, first: int, used: Tensor) -> Tensor:
        """Return the maps (B, T) of a tower.

        Args:
            traced: the tower's forward pass.
            target: (B, E), embedding that the tower's embedding is compared with.
            first: first layer that counts.
            used: (B, T) bool, True for patches, or for the caption's own tokens.
        """


class AttentionRollout(AttentionMap):
    r"""Attention rollout (Abnar and Zuidema, ACL 2020): :math:`\prod_l \tfrac12 (\bar A_l + I)`, heads averaged.

    The map does not depend on the other half of the pair. By default, all blocks count. Where a tower pools by
    attention (SigLIP), the pooling layer's attention is the last factor, without the identity.
    """

    pair_specific = False

    @override
    def default_layer(self, modality: Modality) -> int:
        return 0

    @override
    def saliency(self, traced: Traced, target: Tensor, first: int, used: Tensor) -> Tensor:
        return roll(traced, [layer.weights.detach().mean(1) for layer in traced.layers[first:]], 0.5)


class Chefer(AttentionMap):
    r"""Relevance of Chefer, Gur and Wolf (ICCV 2021): :math:`R \leftarrow R + \overline{(\nabla A \odot A)^+} R`.

    The gradient is that of the pair's cosine; heads are averaged. By default only the last block counts, as in the
    authors' CLIP example; ``image_layer=0`` counts all. The authors' example differentiates a batch's logits.
    """

    @override
    def saliency(self, traced: Traced, target: Tensor, first: int, used: Tensor) -> Tensor:
        weights = [layer.weights for layer in traced.layers[first:]]
        gradients = _gradients(traced, target, weights)
        relevant = [(g * a).relu().mean(1) for g, a in zip(gradients, weights, strict=True)]
        return roll(traced, relevant, 1.0)


class GradECLIP(AttentionMap):
    r"""Grad-ECLIP (Zhao et al., ICML 2024): :math:`\mathrm{relu}(\sum_d g_d \, v_{td} \, w_t)`.

    :math:`g` is the cosine's gradient at the attention's output (before its projection) for the pooled token,
    :math:`v_t` the values, :math:`w_t` the cosine of the pooled token's query and each key, min-max scaled over the
    patches, or over the caption's tokens. Layers from ``image_layer`` on are summed; by default only the last counts.
    The authors run that block with a single head, which changes the explained score; here the model keeps its heads.
    They divide a caption's map by its sum; here it stays raw.
    """

    @override
    def saliency(self, traced: Traced, target: Tensor, first: int, used: Tensor) -> Tensor:
        layers = traced.layers[first:]
        gradients = _gradients(traced, target, [layer.output for layer in layers])
        maps = [self._layer_map(traced, layer, g, used) for layer, g in zip(layers, gradients, strict=True)]
        return torch.stack(maps).sum(0)

    @staticmethod
    def _layer_map(traced: Traced, layer: Attention, gradient: Tensor, used: Tensor) -> Tensor:
        if traced.pooled is None and layer is not traced.layers[-1]:
            return layer.value.new_zeros(layer.value.shape[:2])  # this block has no pooled token
        cosine = F.cosine_similarity(traced.read(layer.query)[:, None], layer.key, dim=-1)  # (B, T)
        low = cosine.masked_fill(~used, torch.inf).amin(1, keepdim=True)
        high = cosine.masked_fill(~used, -torch.inf).amax(1, keepdim=True)
        similarity = (cosine - low) / (high - low).clamp(min=1e-12)
        return (torch.einsum("bd,btd->bt", traced.read(gradient), layer.value) * similarity).relu()


def roll(traced: Traced, factors: list[Tensor], scale: float) -> Tensor:
    """Return the pooled row (B, T) of the product of ``scale * (factor + I)``, with the first factor rightmost.

    The factor of a pooling layer, (B, 1, T), is multiplied unchanged.
    """
    blocks = factors if traced.pooled is not None else factors[:-1]
    tokens = traced.layers[0].key.shape[1]
    identity = torch.eye(tokens, dtype=factors[0].dtype, device=factors[0].device).expand(len(factors[0]), -1, -1)
    total = identity
    for factor in blocks:
        total = scale * (factor + identity) @ total
    return traced.read(total) if traced.pooled is not None else (factors[-1] @ total)[:, 0]


def _gradients(traced: Traced, target: Tensor, tensors: list[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradient of the pairs' cosines with respect to each tensor."""
    cosine = F.cosine_similarity(traced.embedding, target, dim=-1)
    return torch.autograd.grad(cosine.sum(), tensors)


register_method("attention_rollout", AttentionRollout)
register_method("chefer", Chefer)
register_method("grad_eclip", GradECLIP)
