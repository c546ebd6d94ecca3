r"""The information bottleneck of M2IB (Wang, Rudner and Wilson, NeurIPS 2023; after Schulz et al., ICLR 2020).

Legend: B pairs, K noise draws, T tokens, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from m2ib_lightning.m2ib.settings import TowerSettings


class InformationBottleneck(nn.Module):
    r"""Replaces part of a layer's output with noise, and measures in nats how much information passes.

    With :math:`\lambda = \sigma(\alpha)` and the whitened features :math:`z' = (z - m) / (\sigma s)`, a draw is

    .. math::
        t_k = m + \sigma s \, (\lambda z' + (1 - \lambda) \epsilon_k), \qquad \epsilon_k \sim N(0, I)

    and the information is the divergence of the draws from the prior,

    .. math::
        \mathrm{KL}\big(N(\lambda z', (1-\lambda)^2) \,\|\, N(0, 1)\big)
        = -\tfrac12 \big(1 + 2 \log(1 - \lambda) - (\lambda z')^2 - (1 - \lambda)^2\big).

    Each pair of a batch has its own gates: ``alpha`` is (B, T, D), or (B, T, 1) with ``granularity="token"``.
    All computation is in the dtype of ``alpha`` (float32 or float64), whatever the precision around it.

    Args:
        width: the layer's width D.
        settings: beta, sigma and granularity.
        initial_alpha: start value of every alpha.
        mean: (D,) the prior's mean m; None for 0.
        std: (D,) the prior's standard deviation s; None for 1.

    Attributes:
        alpha: the trainable parameter; empty until ``reset``.
        mean: the prior's mean, in alpha's dtype and on its device.
        std: the prior's standard deviation, in alpha's dtype and on its device.
    """

    def __init__(
        self,
        width: int,
        settings: TowerSettings,
        *,
        initial_alpha: float = 5.0,
        mean: Tensor | None = None,
        std: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.width = width
        self.beta = settings.beta
        self.sigma = settings.sigma
        self.gates = 1 if settings.granularity == "token" else width
        self.initial_alpha = initial_alpha
        self.alpha = nn.Parameter(torch.empty(0, 0, self.gates))
        self._prior = (torch.zeros(width) if mean is None else mean, torch.ones(width) if std is None else std)
        self.reset(pairs=0, tokens=0)

    def reset(self, pairs: int, tokens: int) -> None:
        """Create new gates for a batch. The parameter object stays the same, so an optimiser can keep its reference."""
        alpha = self.alpha
        alpha.data = alpha.new_full((pairs, tokens, self.gates), self.initial_alpha)
        alpha.grad = None
        # The float64 statistics are cast here and are not buffers, because some devices have no float64.
        self.mean, self.std = (value.to(alpha.dtype).to(alpha.device) for value in self._prior)

    @property
    def lambda_(self) -> Tensor:
        """Share of the signal that passes the bottleneck, sigmoid(alpha): (B, T, D) or (B, T, 1)."""
        return torch.sigmoid(self.alpha)

    def whiten(self, z: Tensor) -> Tensor:
        """Return the whitened features z' = (z - m) / (sigma s), (B, T, D)."""
        return (z.to(self.alpha.dtype) - self.mean) / (self.sigma * self.std)

    def information(self, whitened: Tensor) -> Tensor:
        """Return the information (B, T, D) in nats per token and channel."""
        return divergence(self.alpha, whitened)

    def part(self, pairs: slice, tokens: int) -> Tensor:
        """Return a copy of the alphas of some pairs and their first ``tokens`` tokens, as a leaf tensor.

        A slice of ``alpha`` would not do, because its gradient has the size of all alphas.
        """
        return self.alpha.detach()[pairs, :tokens].clone().requires_grad_()

    def add_gradient(self, part: Tensor, pairs: slice) -> None:
        """Add the gradient of ``part``, a copy of the alphas of ``pairs``, to ``alpha.grad``, which must exist."""
        assert self.alpha.grad is not None
        assert part.grad is not None
        self.alpha.grad[pairs, : part.shape[1]] += part.grad

    def forward(self, whitened: Tensor, noise: Tensor, alpha: Tensor | None = None) -> Tensor:
        """Return the draws t_k of the bottleneck's output.

        Args:
            whitened: (B, T, D) features from ``whiten``.
            noise: (K, T, D) standard normal numbers, shared by all pairs.
            alpha: alphas of the pairs, from ``part``; None for those of the whole batch.

        Returns:
            The draws (B, K, T, D).
        """
        alpha = self.alpha if alpha is None else alpha
        scale = self.sigma * self.std
        signal = self.mean + scale * torch.sigmoid(alpha) * whitened  # (B, T, D)
        spread = scale * torch.sigmoid(-alpha)
        return torch.addcmul(signal.unsqueeze(1), spread.unsqueeze(1), noise)


def divergence(alpha: Tensor, whitened: Tensor) -> Tensor:
    """Return the information (..., T, D) in nats per token and channel, from the formula of ``InformationBottleneck``.

    log(1 - lambda) is computed as ``logsigmoid(-alpha)``, which never overflows.

    Args:
        alpha: alphas that broadcast to the shape of ``whitened``.
        whitened: (..., T, D) whitened features z'.
    """
    log_noise_share = F.logsigmoid(-alpha)
    noise_share = torch.sigmoid(-alpha)
    signal = torch.sigmoid(alpha) * whitened
    return -0.5 * (1 + 2 * log_noise_share - signal.square() - noise_share.square())
