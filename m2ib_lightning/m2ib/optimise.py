"""The one loop: optimise the gates of a batch of pairs. The Lightning module and ``explain`` both run it.

Legend: B pairs, K noise draws, T tokens, D width, E embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from m2ib_lightning.config import Modality
from m2ib_lightning.encoder.towers import Hidden
from m2ib_lightning.m2ib.bottleneck import InformationBottleneck
from m2ib_lightning.m2ib.chunks import Chunk
from m2ib_lightning.m2ib.objective import Terms, mean_information, similarities

Backward = Callable[[Tensor], None]
Run = Callable[[Tensor, Tensor | None], Tensor]
"""(N, T, D) and (N,) the token that pooling reads, to (N, E): the frozen rest of a tower."""


@dataclass
class Problem:
    """What is optimised in one tower, for a batch of B pairs.

    Attributes:
        suffix: the frozen rest of the tower.
        bottleneck: reset to this batch.
        hidden: the clean pair at the cut.
        target: (B, E), the other tower's clean embedding.
        noise: (step, tokens, like) -> (K, tokens, D).
        draws: K.
        chunks: what goes through the suffix at a time; together all draws of all pairs, each once.
        loss_scale: gradients travel through the suffix multiplied by this, a power of 2, and are divided by it before
            they are used: in float16 they would vanish. A pair whose gradient overflows fails alone.
    """

    suffix: Run
    bottleneck: InformationBottleneck
    hidden: Hidden
    target: Tensor
    noise: Callable[[int, int, Tensor], Tensor]
    draws: int
    chunks: Sequence[Chunk]
    loss_scale: float = 1.0

    def __post_init__(self) -> None:
        with torch.autocast(self.hidden.z.device.type, enabled=False):
            self.whitened = self.bottleneck.whiten(self.hidden.z)
            self.target = self.target.to(self.whitened.dtype)

    def evaluate(self, step: int, backward: Backward | None) -> tuple[Tensor, Terms]:
        """One forward pass, and with ``backward`` the gradient of the summed loss, left in ``alpha.grad``.

        Returns:
            Saliency (B, T) in nats, and the objective's terms (B,).
        """
        beta, alpha = self.bottleneck.beta, self.bottleneck.alpha
        with torch.autocast(self.hidden.z.device.type, enabled=False), torch.set_grad_enabled(backward is not None):
            information = self.bottleneck.information(self.whitened)  # (B, T, D)
            mean = mean_information(information, self.hidden.valid)
            if backward is not None:
                backward(self.loss_scale * beta * mean.sum())
            noise = self.noise(step, self.whitened.shape[1], self.whitened)
            similarity = torch.zeros_like(mean)
            for chunk in self.chunks:
                gates = self.bottleneck.part(chunk.pairs, chunk.tokens)
                part = self._similarity(chunk, gates, noise)
                if backward is not None:
                    backward(-self.loss_scale * part.sum())
                    self.bottleneck.add_gradient(gates, chunk.pairs)
                similarity[chunk.pairs] += part.detach()
            if alpha.grad is not None and self.loss_scale != 1:
                alpha.grad /= self.loss_scale
        return information.detach().sum(-1), Terms(beta * mean.detach() - similarity, mean.detach(), similarity)

    def _similarity(self, chunk: Chunk, gates: Tensor, noise: Tensor) -> Tensor:
        """The chunk's share of each pair's mean cosine."""
        whitened = self.whitened[chunk.pairs, : chunk.tokens]
        draws = self.bottleneck(whitened, noise[chunk.draws, : chunk.tokens], gates)  # (b, k, T, D)
        pairs, count = draws.shape[:2]
        pooled = None if self.hidden.pooled is None else self.hidden.pooled[chunk.pairs].repeat_interleave(count)
        embeddings = self.suffix(draws.flatten(0, 1), pooled).to(self.target.dtype).view(pairs, count, -1)  # (b, k, E)
        return similarities(embeddings, self.target[chunk.pairs]).sum(-1) / self.draws


@dataclass(frozen=True)
class Trace:
    """How the optimisation of one tower went.

    Attributes:
        saliency: (B, T) nats per token, read in the last step's forward pass.
        loss: (steps, B).
        information: (steps, B), mean nats per token and channel.
        similarity: (steps, B), mean cosine over the draws.
    """

    saliency: Tensor
    loss: Tensor
    information: Tensor
    similarity: Tensor

    def cpu(self) -> Trace:
        """The same on the CPU: the only copies of a batch's curves."""
        return Trace(*(value.cpu() for value in (self.saliency, self.loss, self.information, self.similarity)))


def optimise(
    problems: dict[Modality, Problem],
    *,
    steps: int,
    optimizer: torch.optim.Optimizer,
    backward: Backward = torch.Tensor.backward,
) -> dict[Modality, Trace]:
    """Minimise the sum of the objectives of all pairs and towers.

    The pairs do not meet: each has gates of its own and the loss is a sum, so a pair's gradient, and a NaN, stay its
    own. Nothing here waits for the device, once the noise is on it.

    Args:
        problems: one per tower.
        steps: optimiser steps. The last one's gradient would move gates that nobody reads (the result is what its
            forward pass sees), so it is not computed.
        optimizer: over the alphas of all problems; one step of it per inner step.
        backward: called with parts of the summed loss, which add up.

    Returns:
        What happened, per tower.
    """
    history: dict[Modality, list[Terms]] = {modality: [] for modality in problems}
    saliency: dict[Modality, Tensor] = {}
    for step in range(steps):
        optimizer.zero_grad(set_to_none=True)
        for modality, problem in problems.items():
            saliency[modality], terms = problem.evaluate(step, backward if step < steps - 1 else None)
            history[modality].append(terms)
        optimizer.step()
    return {modality: Trace(saliency[modality], *_stacked(history[modality])) for modality in problems}


def _stacked(history: list[Terms]) -> tuple[Tensor, Tensor, Tensor]:
    loss, information, similarity = (torch.stack(column) for column in zip(*history, strict=True))
    return loss, information, similarity
