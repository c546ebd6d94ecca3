"""The textbook method: M2IB as the paper's equations and the public reference have it, the baseline of the benchmark.

It explains one pair at a time. Every step runs both complete towers on K copies, with weights that require gradients,
and one backward pass through all of it. Only the noise is the package's, so that the maps can be compared.

Legend: K noise draws, T tokens, D width.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from numpy.typing import NDArray
from torch import Tensor, nn

from m2ib_lightning.config import MODALITIES, Modality
from m2ib_lightning.m2ib.noise import draw_noise
from m2ib_lightning.m2ib.settings import BottleneckSettings


@dataclass
class TextbookRun:
    """Result of the textbook method.

    Attributes:
        saliency: information in nats of the patches, and of the words without special tokens.
        times: seconds of each step, per tower.
    """

    saliency: list[NDArray[np.float32]] = field(default_factory=list)
    times: list[list[float]] = field(default_factory=list)

    @property
    def step_seconds(self) -> float:
        """Seconds of a step of both towers: medians without the first step, which allocates the gradients."""
        return sum(statistics.median(times[1:] or times) for times in self.times)


def explain_textbook(model: Any, pixel_values: Tensor, input_ids: Tensor, settings: BottleneckSettings) -> TextbookRun:
    """Explain one pair with a CLIP model, element gates and unit prior.

    Args:
        model: a Hugging Face CLIP model.
        pixel_values: picture, (1, 3, H, W).
        input_ids: tokens without padding, (1, T).
        settings: settings with resolved layers.
    """
    run = TextbookRun()
    for modality in MODALITIES:
        saliency, times = _explain_tower(model, pixel_values, input_ids, modality, settings)
        run.saliency.append((saliency[1:] if modality == "image" else saliency[1:-1]).cpu().numpy())
        run.times.append(times)
    model.zero_grad(set_to_none=True)
    return run


def _explain_tower(
    model: Any, pixel_values: Tensor, input_ids: Tensor, modality: Modality, settings: BottleneckSettings
) -> tuple[Tensor, list[float]]:
    tower = model.vision_model if modality == "image" else model.text_model
    layer, beta, draws = settings.tower(modality).layer, settings.tower(modality).beta, settings.noise_samples
    assert layer is not None
    tokens = input_ids.shape[1]
    if modality == "image":
        tokens = (pixel_values.shape[-1] // tower.config.patch_size) ** 2 + 1
    bottleneck = _Bottleneck(settings, modality, tokens, tower.config).to(pixel_values.device)
    optimizer = torch.optim.Adam([bottleneck.alpha], lr=settings.lr)
    times = []
    with _inserted(tower.encoder.layers[layer], bottleneck):
        for step in range(settings.steps):
            start = time.perf_counter()
            bottleneck.step = step
            output = model(pixel_values=pixel_values.expand(draws, -1, -1, -1), input_ids=input_ids.expand(draws, -1))
            similarity = F.cosine_similarity(output.image_embeds, output.text_embeds).mean()
            loss = beta * bottleneck.information.mean() - similarity
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()  # waits for the device
            times.append(time.perf_counter() - start)
    return bottleneck.information.detach()[0].sum(-1), times


class _Bottleneck(nn.Module):
    """Stores the information of a block's output, and returns a noisy copy of the output."""

    def __init__(self, settings: BottleneckSettings, modality: Modality, tokens: int, config: Any) -> None:
        super().__init__()
        width = config.hidden_size
        positions = tokens if modality == "image" else config.max_position_embeddings
        self.alpha = nn.Parameter(torch.full((tokens, width), settings.initial_alpha))
        self.modality: Modality = modality
        self.shape = (settings.noise_samples, positions, width)
        self.step = 0
        self.information = torch.empty(0)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the noisy copy, (K, T, D), of the output, (K, T, D)."""
        lambda_ = torch.sigmoid(self.alpha)
        mean, variance = lambda_ * hidden, (1 - lambda_) ** 2
        self.information = -0.5 * (1 + torch.log(variance) - mean**2 - variance)
        noise = draw_noise(0, self.modality, self.step, self.shape)[:, : hidden.shape[1]]
        return mean + torch.sqrt(variance) * noise.to(hidden)


@contextmanager
def _inserted(block: nn.Module, bottleneck: nn.Module) -> Iterator[None]:
    handle = block.register_forward_hook(lambda module, arguments, output: bottleneck(output))
    try:
        yield
    finally:
        handle.remove()
