"""M2IB as the paper's equations read and as its public reference runs: what the benchmark measures against.

One pair at a time; in every step both whole towers on K copies, with weights that require gradients, and one backward
pass through all of it. Only the noise is the package's, so that the maps can be compared.
Legend: K noise draws, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from m2ib_lightning.noise import draw_noise
from m2ib_lightning.settings import BottleneckSettings, Modality


def explain_textbook(
    model: Any, pixel_values: Tensor, input_ids: Tensor, modality: Modality, settings: BottleneckSettings
) -> Tensor:
    """Explain one tower of one pair, element gates and unit prior: saliency (T,) in nats.

    Args:
        model: a Hugging Face CLIP model.
        pixel_values: (1, 3, H, W).
        input_ids: (1, T), without padding.
        modality: which tower is explained.
        settings: with layers resolved.
    """
    tower = model.vision_model if modality == "image" else model.text_model
    ours = settings.tower(modality)
    bottleneck = _Bottleneck(settings, modality, tower.config.hidden_size, _positions(model, modality))
    optimizer: torch.optim.Adam | None = None
    draws = settings.noise_samples
    assert ours.layer is not None
    with _inserted(tower.encoder.layers[ours.layer], bottleneck):
        for step in range(settings.steps):
            bottleneck.step = step
            output = model(pixel_values=pixel_values.expand(draws, -1, -1, -1), input_ids=input_ids.expand(draws, -1))
            similarity = F.cosine_similarity(output.image_embeds, output.text_embeds).mean()
            loss = ours.beta * bottleneck.information.mean() - similarity
            if optimizer is None:
                optimizer = torch.optim.Adam([bottleneck.alpha], lr=settings.lr)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return bottleneck.information.detach()[0].sum(-1)


class _Bottleneck(nn.Module):
    """A hook on a block: keeps its output's information and lets a noisy copy through."""

    def __init__(self, settings: BottleneckSettings, modality: Modality, width: int, positions: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.empty(0))
        self.settings = settings
        self.modality: Modality = modality
        self.noise_shape = (settings.noise_samples, positions, width)
        self.step = 0
        self.information = torch.empty(0)

    def forward(self, hidden: Tensor) -> Tensor:
        """(K, T, D) to (K, T, D)."""
        if self.alpha.numel() == 0:
            self.alpha.data = torch.full_like(hidden[0], self.settings.initial_alpha)
        lambda_ = torch.sigmoid(self.alpha)
        mean, variance = lambda_ * hidden, (1 - lambda_) ** 2
        noise = draw_noise(self.settings_seed, self.modality, self.step, self.noise_shape)[:, : hidden.shape[1]]
        self.information = -0.5 * (1 + torch.log(variance) - mean**2 - variance)
        return mean + torch.sqrt(variance) * noise.to(hidden)

    settings_seed = 0


def _positions(model: Any, modality: Modality) -> int:
    if modality == "image":
        return int(model.vision_model.embeddings.num_positions)
    return int(model.config.text_config.max_position_embeddings)


@contextmanager
def _inserted(block: nn.Module, bottleneck: nn.Module) -> Iterator[None]:
    handle = block.register_forward_hook(lambda module, arguments, output: bottleneck(output))
    try:
        yield
    finally:
        handle.remove()
