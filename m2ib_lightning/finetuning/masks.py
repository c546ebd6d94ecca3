"""The bottleneck that is trained with a model: one mask for all pairs, or one that a small head reads from each pair.

Legend: B pairs, T tokens, D width, E embedding size, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from m2ib_lightning.m2ib.bottleneck import divergence


class ChannelMask(nn.Module):
    """One alpha per channel, shared by all pairs and tokens.

    Args:
        width: number of channels D.
        initial_alpha: value at which every alpha starts.
    """

    def __init__(self, width: int, initial_alpha: float = 5.0) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((width,), initial_alpha))

    def forward(self, features: Sequence[Tensor], context: Tensor) -> Tensor:
        """Return alpha (1, 1, D), the same for all pairs."""
        return self.alpha[None, None]


class ReadoutMask(nn.Module):
    r"""One alpha per token, read from hidden states by a head: the readout bottleneck of Schulz et al. (ICLR 2020).

    :math:`\alpha_t = w^T g(W [g(x_t) \odot U e, g(x_t)]) + b` with :math:`x_t` the token's normalised features, *e*
    the other tower's clean embedding and *g* GELU. Schulz et al. have one network and its logits. Here the other half
    of the pair says what to look for.

    Args:
        widths: width of each of the F features.
        embedding: size E of the other tower's embedding.
        hidden: inner width of the head.
        initial_alpha: value at which every alpha starts.
    """

    def __init__(self, widths: Sequence[int], embedding: int, hidden: int = 128, initial_alpha: float = 5.0) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.token = nn.Linear(sum(widths), hidden)
        self.context = nn.Linear(embedding, hidden)
        self.inner = nn.Linear(2 * hidden, hidden)
        self.out = nn.Linear(hidden, 1)
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.constant_(self.out.bias, initial_alpha)

    def forward(self, features: Sequence[Tensor], context: Tensor) -> Tensor:
        """Return alpha (B, T, 1) from F features (B, T, D) and the other tower's embeddings (B, E)."""
        normalised = [norm(feature) for norm, feature in zip(self.norms, features, strict=True)]
        tokens = F.gelu(self.token(torch.cat(normalised, dim=-1)))  # (B, T, hidden)
        wanted = self.context(F.normalize(context, dim=-1) * context.shape[-1] ** 0.5)[:, None]
        alpha: Tensor = self.out(F.gelu(self.inner(torch.cat([tokens * wanted, tokens], dim=-1))))
        return alpha


MASKS: dict[str, Any] = {"channel": ChannelMask, "readout": ReadoutMask}


class TrainedBottleneck(nn.Module):
    r"""The bottleneck of one tower: :math:`t = m + \sigma s (\lambda z' + (1 - \lambda) \epsilon)`.

    Without noise (at evaluation) :math:`t = m + \sigma s \lambda z'`. Masks and information are float32 in every
    precision.

    Args:
        mask: the module that computes alpha.
        sigma: scale of the noise, in the prior's standard deviations.
        mean: (D,) the prior's mean m.
        std: (D,) the prior's standard deviation s.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mask: nn.Module, sigma: float, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.mask = mask
        self.sigma = sigma
        self.register_buffer("mean", mean.float())
        self.register_buffer("std", std.float())

    def forward(
        self, z: Tensor, features: Sequence[Tensor], context: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the gated hidden states (B, T, D), in the type of z, and the information (B, T, D) in nats.

        Args:
            z: (B, T, D) hidden states at the cut.
            features: (B, T, D) hidden states that the mask reads, one or several.
            context: (B, E) clean embeddings of the other tower.
            noise: (B, T, D) standard normal noise; None for no noise.
        """
        with torch.autocast(z.device.type, enabled=False):
            wide = torch.promote_types(z.dtype, torch.float32)
            alpha = self.mask([feature.to(wide) for feature in features], context.to(wide))
            scale = self.sigma * self.std
            whitened = (z.to(wide) - self.mean) / scale
            passed = torch.sigmoid(alpha) * whitened
            if noise is not None:
                passed = passed + torch.sigmoid(-alpha) * noise.to(wide)
            return (self.mean + scale * passed).to(z.dtype), divergence(alpha, whitened)
