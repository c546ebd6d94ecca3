"""The one loop: optimise the gates of a batch of pairs. The Lightning module and ``explain`` both run it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from m2ib_lightning.bottleneck import InformationBottleneck
from m2ib_lightning.objective import Terms, objective
from m2ib_lightning.settings import Modality
from m2ib_lightning.towers import Hidden, Tower


@dataclass
class Problem:
    """What is optimised in one tower, for a batch of B pairs.

    Attributes:
        tower: the frozen encoder.
        layer: where it is cut.
        bottleneck: reset to this batch.
        hidden: the clean pair at the cut.
        target: (B, E), the other tower's clean embedding.
        noise: (step, tokens, like) -> (K, tokens, D).
    """

    tower: Tower
    layer: int
    bottleneck: InformationBottleneck
    hidden: Hidden
    target: Tensor
    noise: Callable[[int, int, Tensor], Tensor]

    def __post_init__(self) -> None:
        with torch.autocast(self.hidden.z.device.type, enabled=False):
            self.whitened = self.bottleneck.whiten(self.hidden.z)

    def evaluate(self, step: int) -> tuple[Tensor, Terms]:
        """One forward pass: saliency (B, T) in nats, and the objective's terms (B,)."""
        device = self.hidden.z.device.type
        with torch.autocast(device, enabled=False):
            noise = self.noise(step, self.whitened.shape[1], self.whitened)
            draws = self.bottleneck(self.whitened, noise)  # (B, K, T, D)
        pairs, count = draws.shape[:2]
        pooled = None if self.hidden.pooled is None else self.hidden.pooled.repeat_interleave(count)
        embeddings = self.tower.suffix(draws.flatten(0, 1), self.layer, pooled)  # (B * K, E)
        with torch.autocast(device, enabled=False):
            information = self.bottleneck.information(self.whitened)  # (B, T, D)
            terms = objective(
                information,
                embeddings.to(information.dtype).view(pairs, count, -1),
                self.target.to(information.dtype),
                self.hidden.valid,
                self.bottleneck.beta,
            )
        return information.detach().sum(-1), terms


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
        """The same on the CPU: one copy per batch."""
        return Trace(*(value.cpu() for value in (self.saliency, self.loss, self.information, self.similarity)))


def optimise(
    problems: dict[Modality, Problem],
    *,
    steps: int,
    optimizer: torch.optim.Optimizer,
    backward: Callable[[Tensor], None] = torch.Tensor.backward,
) -> dict[Modality, Trace]:
    """Minimise the sum of the objectives of all pairs and towers.

    The pairs do not meet: each has gates of its own and the loss is a sum, so a pair's gradient, and a NaN, stay its
    own.

    Args:
        problems: one per tower.
        steps: optimiser steps.
        optimizer: over the alphas of all problems; one step of it per inner step.
        backward: called with the summed loss.

    Returns:
        What happened, per tower.
    """
    history: dict[Modality, list[Terms]] = {modality: [] for modality in problems}
    saliency: dict[Modality, Tensor] = {}
    for step in range(steps):
        losses = []
        for modality, problem in problems.items():
            saliency[modality], terms = problem.evaluate(step)
            losses.append(terms.loss.sum())
            history[modality].append(Terms(*(term.detach() for term in terms)))
        optimizer.zero_grad(set_to_none=True)
        backward(torch.stack(losses).sum())
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {modality: Trace(saliency[modality], *_stacked(history[modality])) for modality in problems}


def _stacked(history: list[Terms]) -> tuple[Tensor, Tensor, Tensor]:
    loss, information, similarity = (torch.stack(column) for column in zip(*history, strict=True))
    return loss, information, similarity
