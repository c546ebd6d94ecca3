"""The parts of a transformer block, as the fused blocks and the methods that read attention take them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

_HARMLESS_HOOKS = "transformers.utils.output_capturing"
"""Module of the hooks that remain after one request for ``output_hidden_states``. They do nothing later."""


@dataclass(frozen=True)
class Affine:
    """A frozen linear map.

    Attributes:
        weight: (out, in).
        bias: (out,), or None.
    """

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return F.linear(x, self.weight, self.bias)

    def to(self, dtype: torch.dtype) -> Affine:
        """Return the map in ``dtype``; without a copy if it has that dtype."""
        return Affine(self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype))

    def scaled(self, factor: float = 1.0, bias_factor: float | None = None) -> Affine:
        """Return the map with weight and bias multiplied; a factor of 1 makes no copy.

        Args:
            factor: factor of the weight.
            bias_factor: factor of the bias; None for the weight's.
        """
        bias_factor = factor if bias_factor is None else bias_factor
        bias = self.bias if self.bias is None or bias_factor == 1 else self.bias * bias_factor
        return Affine(self.weight if factor == 1 else self.weight * factor, bias)

    def each_scaled(self, factors: Tensor | None) -> Affine:
        """Return the map with each output multiplied by its factor (out,), a layer scale; None for no factors."""
        if factors is None:
            return self
        return Affine(factors[:, None] * self.weight, None if self.bias is None else factors * self.bias)

    def split(self, count: int) -> list[Affine]:
        """Return the maps to each of ``count`` equal parts of the output."""
        biases = [None] * count if self.bias is None else self.bias.chunk(count)
        return [Affine(weight, bias) for weight, bias in zip(self.weight.chunk(count), biases, strict=True)]


@dataclass(frozen=True)
class BlockParts:
    """The parts of a pre-norm block or of a post-norm block.

    - Pre-norm (CLIP): ``a = h + out(attention(norm1(h)))``, then ``a + down(activation(up(norm2(a))))``.
    - Post-norm (BERT): ``a = norm1(h + out(attention(h)))``, then ``norm2(a + down(activation(up(a))))``.

    A layer scale is a part of ``out`` and ``down``.

    Attributes:
        norm1: norm before the attention, or behind it.
        query: query projection.
        key: key projection.
        value: value projection.
        out: output projection of the attention.
        norm2: norm before the MLP, or behind it.
        up: linear map of the MLP, from D to its inner width.
        activation: elementwise activation of the MLP.
        down: linear map of the MLP, back to D.
        heads: number of attention heads.
        post_norm: whether the norms follow the sums.
    """

    norm1: nn.LayerNorm
    query: Affine
    key: Affine
    value: Affine
    out: Affine
    norm2: nn.LayerNorm
    up: Affine
    activation: Callable[[Tensor], Tensor]
    down: Affine
    heads: int
    post_norm: bool = False


@dataclass(frozen=True)
class PoolingParts:
    """The parts of attention pooling: a learned query reads every token, and an MLP follows.

    Attributes:
        norm: norm before the pooling.
        query: (1, D) the learned query before its projection.
        attention: attention with packed projections.
        rest: function from the output of the attention (B, D) to the pooled vectors (B, D).
    """

    norm: nn.Module
    query: Tensor
    attention: nn.MultiheadAttention
    rest: Callable[[Tensor], Tensor]


def is_modified(module: nn.Module) -> bool:
    """Return whether hooks or a replaced ``forward`` may change what a module computes."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values(), *module._backward_hooks.values())
    return "forward" in vars(module) or any(getattr(hook, "__module__", "") != _HARMLESS_HOOKS for hook in hooks)
