"""Transformer blocks with frozen, fused weights, cast to the compute dtype.

Legend: N sequences (each a draw of a pair), T tokens, D width, H heads, d = D / H.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn
from transformers.activations import QuickGELUActivation

from m2ib_lightning.encoder.families.block_parts import Affine, BlockParts

_QUICK_GELU = 1.702


class Block:
    r"""Computes the function of the model's own block, up to rounding, in fewer passes over memory.

    - q, k and v are one matrix product, whose weights include the factor :math:`d^{-1/2}` of the queries.
    - QuickGELU is :math:`u \, \sigma(c u) = \mathrm{silu}(c u) / c` with c = 1.702. It is one kernel, because
      c and 1 / c are fused into the weights before and after it.

    Args:
        parts: the frozen parts of the model's block.
        dtype: compute dtype.
    """

    def __init__(self, parts: BlockParts, dtype: torch.dtype) -> None:
        quick = isinstance(parts.activation, QuickGELUActivation)
        factor = _QUICK_GELU if quick else 1.0
        query = parts.query.scaled((len(parts.query.weight) // parts.heads) ** -0.5)
        self.heads, self.post_norm = parts.heads, parts.post_norm
        self.norm1, self.norm2 = _Norm(parts.norm1, dtype), _Norm(parts.norm2, dtype)
        self.qkv = _stacked(query, parts.key, parts.value).to(dtype)
        self.out = parts.out.to(dtype)
        self.up = parts.up.scaled(factor).to(dtype)
        self.activation = F.silu if quick else parts.activation
        self.down = parts.down.scaled(1 / factor, bias_factor=1.0).to(dtype)

    def __call__(self, hidden: Tensor, causal: bool, read: Tensor | None = None) -> Tensor:
        """Map the hidden states of all tokens (N, T, D) to (N, T, D).

        Args:
            hidden: the hidden states.
            causal: whether a token reads only itself and the tokens before it.
            read: (N, T) bool, the tokens that any token may read; None for all.
        """
        sequences, tokens, _ = hidden.shape
        qkv = self.qkv(self._before(hidden)).view(sequences, tokens, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (N, H, T, d) each
        attended = _attention(query, key, value, causal, read)
        return self._after(hidden, self.out(attended.transpose(1, 2).flatten(2)))

    def _before(self, hidden: Tensor) -> Tensor:
        """Return the input of the attention."""
        return hidden if self.post_norm else self.norm1(hidden)

    def _after(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """Return the block's output from its input and the output of the attention."""
        hidden = hidden + attended
        if self.post_norm:
            hidden = self.norm1(hidden)
            return self.norm2(hidden + self._mlp(hidden))
        return hidden + self._mlp(self.norm2(hidden))

    def _mlp(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))


class PooledBlock(Block):
    r"""A tower's last block, computed only for the token that pooling reads.

    The other tokens need no query and no MLP. They need no key or value either, because the projections are linear.
    A score :math:`q^T (W_k x_t + b_k)` is :math:`(W_k^T q)^T x_t` plus a constant over t, which the softmax cancels.
    The output is :math:`\sum_t a_t (W_v x_t + b_v) = W_v \sum_t a_t x_t + b_v`.
    """

    def __init__(self, parts: BlockParts, dtype: torch.dtype) -> None:
        super().__init__(parts, dtype)
        width = self.qkv.weight.shape[1]
        query, key, value = self.qkv.weight.view(3, -1, width)
        assert self.qkv.bias is not None
        query_bias, _, self.value_bias = self.qkv.bias.view(3, -1)
        self.query = Affine(query, query_bias)
        self.key, self.value = (weight.view(self.heads, -1, width) for weight in (key, value))  # (H, d, D)

    def pooled(self, hidden: Tensor, position: Tensor, causal: bool, read: Tensor | None = None) -> Tensor:
        """Map hidden states (N, T, D) to those of the pooled tokens (N, D), whose positions are (N,)."""
        sequences, tokens, _ = hidden.shape
        x = self._before(hidden)
        query = self.query(_at(x, position)).view(sequences, self.heads, -1)  # (N, H, d)
        scores = torch.einsum("nhd,hde->nhe", query, self.key) @ x.transpose(1, 2)  # (N, H, T)
        if causal:
            is_later = torch.arange(tokens, device=x.device) > position[:, None]  # (N, T)
            scores = scores.masked_fill(is_later[:, None], -torch.inf)
        if read is not None:
            scores = scores.masked_fill(~read[:, None], -torch.inf)
        attended = torch.einsum("nhe,hde->nhd", _softmax(scores) @ x, self.value).flatten(1)  # (N, D)
        return self._after(_at(hidden, position), self.out(attended + self.value_bias))


def _attention(query: Tensor, key: Tensor, value: Tensor, causal: bool, read: Tensor | None) -> Tensor:
    """Return the softmax attention of queries that are scaled already. All tensors are (N, H, T, d)."""
    tokens = query.shape[-2]
    mask = None if read is None else read[:, None, None]  # (N, 1, 1, T)
    if query.device.type != "cpu" or query.dtype.itemsize >= 4:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal, scale=1.0)
    # In half precision on a CPU, the backward pass of the fused kernel is several times slower (torch 2.13).
    scores = query @ key.transpose(-1, -2)
    if causal:
        is_later = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).triu(1)
        scores = scores.masked_fill(is_later, -torch.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return _softmax(scores) @ value


def _softmax(scores: Tensor) -> Tensor:
    """Return the softmax over the last dimension, computed in at least float32."""
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)


def _at(hidden: Tensor, position: Tensor) -> Tensor:
    """Select token ``position[n]`` of each sequence n: (N, T, D) to (N, D)."""
    index = position.view(-1, 1, 1).expand(-1, 1, hidden.shape[-1])
    return hidden.gather(1, index).squeeze(1)


def _stacked(*maps: Affine) -> Affine:
    """Return the map to the outputs of several, with a bias of 0 where one has none."""
    biases = [m.weight.new_zeros(len(m.weight)) if m.bias is None else m.bias for m in maps]
    return Affine(torch.cat([m.weight for m in maps]), torch.cat(biases))


class _Norm:
    """A frozen layer norm."""

    def __init__(self, norm: nn.LayerNorm, dtype: torch.dtype) -> None:
        self.shape = norm.normalized_shape
        self.weight, self.bias = (parameter.detach().to(dtype) for parameter in (norm.weight, norm.bias))
        self.eps = norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.shape, self.weight, self.bias, self.eps)
