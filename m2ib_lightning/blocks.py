"""A transformer block made ready for the loop: frozen weights in the type of the arithmetic, fused where it pays.

Legend: N rows (each a draw of a pair), T tokens, D width, H heads, d = D / H.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn
from transformers.activations import QuickGELUActivation

from m2ib_lightning.families.parts import BlockParts

_QUICK_GELU = 1.702


class Block:
    r"""The same function as the model's own block, to rounding, in fewer passes over memory.

    - q, k and v are one product.
    - QuickGELU is :math:`u \, \sigma(c u) = \mathrm{silu}(c u) / c` with c = 1.702: one kernel, once the two factors
      are in the weights on either side.

    Args:
        parts: of the model's block; their weights are copied.
        dtype: of the arithmetic.
    """

    def __init__(self, parts: BlockParts, dtype: torch.dtype) -> None:
        quick = isinstance(parts.activation, QuickGELUActivation)
        factor = _QUICK_GELU if quick else 1.0
        self.heads = parts.heads
        self.norm1, self.norm2 = _Norm(parts.norm1, dtype), _Norm(parts.norm2, dtype)
        self.qkv = _Linear.joined([parts.query, parts.key, parts.value], dtype)
        self.out = _Linear.joined([parts.out], dtype)
        self.up = _Linear.joined([parts.up], dtype, weight=factor, bias=factor)
        self.activation = F.silu if quick else parts.activation
        self.down = _Linear.joined([parts.down], dtype, weight=1 / factor)

    def __call__(self, hidden: Tensor, causal: bool) -> Tensor:
        """All tokens: (N, T, D) to (N, T, D)."""
        rows, tokens, width = hidden.shape
        qkv = self.qkv(self.norm1(hidden)).view(rows, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (N, H, T, d) each
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        return self._perceptron(hidden + self.out(attended.transpose(1, 2).flatten(2)))

    def pooled(self, hidden: Tensor, position: Tensor, causal: bool) -> Tensor:
        r"""The token that pooling reads alone: (N, T, D) and (N,) to (N, D).

        The other tokens then need no query and no perceptron; nor, the map being linear, a key or a value. A score
        :math:`q^T (W_k x_t + b_k)` is :math:`(W_k^T q)^T x_t` and a number that is the same for all t, which the
        softmax forgets; and :math:`\sum_t a_t (W_v x_t + b_v) = W_v \sum_t a_t x_t + b_v`.
        """
        rows, tokens, width = hidden.shape
        x = self.norm1(hidden)
        weights = self.qkv.weight.view(3, self.heads, -1, width)  # (3, H, d, D)
        biases = None if self.qkv.bias is None else self.qkv.bias.view(3, width)
        query = F.linear(_at(x, position), weights[0].flatten(0, 1), None if biases is None else biases[0])
        query = query.view(rows, self.heads, -1) * (width // self.heads) ** -0.5  # (N, H, d)
        scores = torch.einsum("nhd,hde->nhe", query, weights[1]) @ x.transpose(1, 2)  # (N, H, T)
        if causal:
            later = torch.arange(tokens, device=x.device) > position[:, None]  # (N, T)
            scores = scores.masked_fill(later[:, None], -torch.inf)
        attention = scores.softmax(-1, dtype=torch.promote_types(x.dtype, torch.float32)).to(x.dtype)
        attended = torch.einsum("nhe,hde->nhd", attention @ x, weights[2]).flatten(1)  # (N, D)
        if biases is not None:
            attended = attended + biases[2]
        return self._perceptron(_at(hidden, position) + self.out(attended))

    def _perceptron(self, hidden: Tensor) -> Tensor:
        return hidden + self.down(self.activation(self.up(self.norm2(hidden))))


def _at(hidden: Tensor, position: Tensor) -> Tensor:
    """Row n's token ``position[n]``: (N, T, D) to (N, D)."""
    index = position.view(-1, 1, 1).expand(-1, 1, hidden.shape[-1])
    return hidden.gather(1, index).squeeze(1)


class _Linear:
    """A frozen linear map."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight = weight
        self.bias = bias

    @classmethod
    def joined(cls, layers: list[nn.Linear], dtype: torch.dtype, *, weight: float = 1.0, bias: float = 1.0) -> _Linear:
        """One product in place of several, scaled."""
        weights = torch.cat([layer.weight for layer in layers]).detach() * weight
        biases = [layer.bias for layer in layers if layer.bias is not None]
        return cls(weights.to(dtype), (torch.cat(biases).detach() * bias).to(dtype) if biases else None)

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class _Norm:
    """A frozen layer norm."""

    def __init__(self, norm: nn.LayerNorm, dtype: torch.dtype) -> None:
        self.shape = norm.normalized_shape
        self.weight, self.bias = (parameter.detach().to(dtype, copy=True) for parameter in (norm.weight, norm.bias))
        self.eps = norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.shape, self.weight, self.bias, self.eps)
