"""The optimisation loop for the gates of a batch, shared by the Lightning module and ``explain``.

Legend: B pairs, K noise draws, T tokens, D width, E embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from m2ib_lightning.config import Modality
from m2ib_lightning.encoder.layout import Hidden, Layout
from m2ib_lightning.m2ib.bottleneck import InformationBottleneck
from m2ib_lightning.m2ib.chunks import Chunk
from m2ib_lightning.m2ib.objective import Terms, mean_information, similarities

Backward = Callable[[Tensor], None]
"""Runs the backward pass of a scalar loss, as ``Tensor.backward`` does."""

SuffixFunction = Callable[[Tensor, Layout], Tensor]
"""Maps hidden states (N, T, D) and their layout to embeddings (N, E)."""


@dataclass
class Problem:
    """The optimisation problem of one tower, for a batch of B pairs.

    Attributes:
        suffix: the frozen rest of the tower after the cut.
        bottleneck: the bottleneck, reset to this batch.
        hidden: clean hidden states at the cut.
        target: (B, E) clean embeddings of the other tower.
        noise: function (step, tokens, like) -> (K, tokens, D).
        draws: number of draws K.
        chunks: parts of the batch that go through the suffix one by one; they cover each draw of each pair once.
        betas: (B,) weight of the information of each row; None for the bottleneck's own.
        loss_scale: power of 2 that the loss is multiplied by and the gradient divided by. It keeps gradients from
            vanishing in float16. If the gradient of a pair overflows, only that pair fails.
    """

    suffix: SuffixFunction
    bottleneck: InformationBottleneck
    hidden: Hidden
    target: Tensor
    noise: Callable[[int, int, Tensor], Tensor]
    draws: int
    chunks: Sequence[Chunk]
    betas: Tensor | None = None
    loss_scale: float = 1.0

    def __post_init__(self) -> None:
        with torch.autocast(self.hidden.z.device.type, enabled=False):
            self.whitened = self.bottleneck.whiten(self.hidden.z)
            self.target = self.target.to(self.whitened.dtype)
        layout = self.hidden.layout
        self._layouts = [  # the same in every step
            layout.rows(chunk.pairs).cut(chunk.tokens).repeated(chunk.draws.stop - chunk.draws.start)
            for chunk in self.chunks
        ]

    def evaluate(self, step: int, backward: Backward | None) -> tuple[Tensor, Terms]:
        """Run one forward pass. If ``backward`` is given, ``alpha.grad`` gets the gradient of the summed loss.

        Returns:
            The saliency (B, T) in nats, and the objective's terms (B,).
        """
        alpha = self.bottleneck.alpha
        beta = self.bottleneck.beta if self.betas is None else self.betas
        with torch.autocast(self.hidden.z.device.type, enabled=False), torch.set_grad_enabled(backward is not None):
            information = self.bottleneck.information(self.whitened)  # (B, T, D)
            mean = mean_information(information, self.hidden.valid)
            if backward is not None:
                backward((self.loss_scale * beta * mean).sum())
            noise = self.noise(step, self.whitened.shape[1], self.whitened)
            similarity = torch.zeros_like(mean)
            for chunk, layout in zip(self.chunks, self._layouts, strict=True):
                gates = self.bottleneck.part(chunk.pairs, chunk.tokens)
                contribution = self._similarity(chunk, layout, gates, noise)
                if backward is not None:
                    backward(-self.loss_scale * contribution.sum())
                    self.bottleneck.add_gradient(gates, chunk.pairs)
                similarity[chunk.pairs] += contribution.detach()
            if alpha.grad is not None and self.loss_scale != 1:
                alpha.grad /= self.loss_scale
        return information.detach().sum(-1), Terms(beta * mean.detach() - similarity, mean.detach(), similarity)

    def _similarity(self, chunk: Chunk, layout: Layout, gates: Tensor, noise: Tensor) -> Tensor:
        """Return the chunk's contribution to each pair's mean cosine."""
        whitened = self.whitened[chunk.pairs, : chunk.tokens]
        draws = self.bottleneck(whitened, noise[chunk.draws, : chunk.tokens], gates)  # (b, k, T, D)
        pairs, count = draws.shape[:2]
        embeddings = self.suffix(draws.flatten(0, 1), layout).to(self.target.dtype).view(pairs, count, -1)  # (b, k, E)
        return similarities(embeddings, self.target[chunk.pairs]).sum(-1) / self.draws


@dataclass(frozen=True)
class Trace:
    """Record of the optimisation of one tower.

    Attributes:
        saliency: (B, T) nats per token, from the forward pass of the last step.
        loss: (steps, B) the objective.
        information: (steps, B) mean nats per token and channel.
        similarity: (steps, B) mean cosine over the draws.
    """

    saliency: Tensor
    loss: Tensor
    information: Tensor
    similarity: Tensor

    def cpu(self) -> Trace:
        """Return a copy of the record on the CPU."""
        return Trace(*(value.cpu() for value in (self.saliency, self.loss, self.information, self.similarity)))


def optimise(
    problems: dict[Modality, Problem],
    *,
    steps: int,
    optimizer: torch.optim.Optimizer,
    backward: Backward = torch.Tensor.backward,
    observe: Callable[[dict[Modality, Trace]], None] | None = None,
) -> dict[Modality, Trace]:
    """Minimise the sum of the objectives of all pairs and towers.

    The pairs are independent: each has its own gates and the loss is a sum, so a NaN stays in its pair. The loop does
    not synchronise with the device once the noise is there.

    Args:
        problems: the optimisation problem of each tower.
        steps: number of optimiser steps. The last step computes no gradient, because the result comes from its
            forward pass.
        optimizer: optimiser of the alphas of all problems.
        backward: function that is called with each part of the summed loss; the gradients add up.
        observe: function that is called after each step with the record so far, which is that of an optimisation that
            ends there.

    Returns:
        The record of each tower.
    """
    history: dict[Modality, list[Terms]] = {modality: [] for modality in problems}
    saliency: dict[Modality, Tensor] = {}
    for step in range(steps):
        optimizer.zero_grad(set_to_none=True)
        for modality, problem in problems.items():
            saliency[modality], terms = problem.evaluate(step, backward if step < steps - 1 else None)
            history[modality].append(terms)
        optimizer.step()
        if observe is not None:
            observe({modality: Trace(saliency[modality], *_stacked(history[modality])) for modality in problems})
    return {modality: Trace(saliency[modality], *_stacked(history[modality])) for modality in problems}


def _stacked(history: list[Terms]) -> tuple[Tensor, Tensor, Tensor]:
    loss, information, similarity = (torch.stack(column) for column in zip(*history, strict=True))
    return loss, information, similarity
