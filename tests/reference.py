"""The oracle: a slow and literal implementation of M2IB, equation by equation.

It takes one pair, runs full forward passes of the untouched Hugging Face model with a hook at the layer, caches
nothing, and shares no code with the package. Legend: K noise draws, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor


def clean_embeddings(model: Any, pixel_values: Tensor, input_ids: Tensor) -> dict[str, Tensor]:
    """Return the embeddings of the untouched model."""
    with torch.no_grad():
        return {
            "image": model.get_image_features(pixel_values=pixel_values).pooler_output,
            "text": model.get_text_features(input_ids=input_ids).pooler_output,
        }


def blocks_of(model: Any, modality: str) -> Any:
    """Return the list of blocks of one tower."""
    tower = model.vision_model if modality == "image" else model.text_model
    return tower.encoder.layers


@contextmanager
def replaced_in(blocks: Any, layer: int, make: Any) -> Iterator[None]:
    """Replace the hidden states after block ``layer`` (before the first block for -1) by ``make`` of them."""

    def after(module: Any, args: Any, output: Any) -> Any:
        return make(output) if torch.is_tensor(output) else (make(output[0]), *output[1:])

    if layer == -1:
        handle = blocks[0].register_forward_pre_hook(lambda module, args: (make(args[0]), *args[1:]))
    else:
        handle = blocks[layer].register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def replaced(model: Any, modality: str, layer: int, make: Any) -> Any:
    """Replace the hidden states of a tower of CLIP or SigLIP, as ``replaced_in`` does."""
    return replaced_in(blocks_of(model, modality), layer, make)


def embed(model: Any, modality: str, pixel_values: Tensor, input_ids: Tensor) -> Tensor:
    """Return the embeddings of a full forward pass of one tower."""
    if modality == "image":
        return model.get_image_features(pixel_values=pixel_values).pooler_output
    return model.get_text_features(input_ids=input_ids).pooler_output


def hidden_states(model: Any, modality: str, layer: int, pixel_values: Tensor, input_ids: Tensor) -> Tensor:
    """Return the hidden states (1, T, D) at the layer, from a full forward pass."""
    seen = []

    def look(hidden: Tensor) -> Tensor:
        seen.append(hidden.detach().clone())
        return hidden

    with torch.no_grad(), replaced(model, modality, layer, look):
        embed(model, modality, pixel_values, input_ids)
    return seen[0]


def explain_reference(
    model: Any, modality: str, pixel_values: Tensor, input_ids: Tensor, opposite: bool = False, **options: Any
) -> dict[str, Any]:
    """Explain one tower of one pair: ``pixel_values`` (1, 3, H, W), ``input_ids`` (1, T) without padding.

    With ``opposite``, the other tower's embedding is turned around.
    """
    largest = (
        model.vision_model.embeddings.num_positions
        if modality == "image"
        else model.config.text_config.max_position_embeddings
    )

    def run(rows: int) -> Tensor:
        return embed(model, modality, pixel_values.expand(rows, -1, -1, -1), input_ids.expand(rows, -1))

    target = clean_embeddings(model, pixel_values, input_ids)["text" if modality == "image" else "image"][0]
    target = -target if opposite else target
    return explain_tower(run, blocks_of(model, modality), target, modality=modality, largest=largest, **options)


def explain_tower(
    run: Callable[[int], Tensor],
    blocks: Any,
    target: Tensor,
    *,
    modality: str,
    largest: int,
    layer: int,
    beta: float,
    sigma: float = 1.0,
    granularity: str = "element",
    mean: Tensor | None = None,
    std: Tensor | None = None,
    steps: int = 10,
    lr: float = 1.0,
    noise_samples: int = 10,
    centred_noise: bool = False,
    initial_alpha: float = 5.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Explain one tower of one pair.

    Args:
        run: function from a number of copies of the input to their embeddings (copies, E), by the untouched model.
        blocks: the tower's blocks.
        target: embedding (E,) of the other tower.
        modality: the tower.
        largest: the tower's largest number of tokens, for which the noise is drawn.
        layer: block after which the hidden states are replaced.
        beta: weight of the information.
        sigma: scale of the noise.
        granularity: ``element`` or ``token``.
        mean: (D,) mean of the prior; None for 0.
        std: (D,) standard deviation of the prior; None for 1.
        steps: number of steps.
        lr: learning rate.
        noise_samples: number of draws K.
        centred_noise: whether the mean of the draws is subtracted from them.
        initial_alpha: first value of each alpha.
        seed: seed of the noise.
    """
    seen = []

    def look(hidden: Tensor) -> Tensor:
        seen.append(hidden.detach().clone())
        return hidden

    with torch.no_grad(), replaced_in(blocks, layer, look):
        run(1)
    z = seen[0][0]  # (T, D)
    tokens, width = z.shape
    m = torch.zeros(width, dtype=z.dtype) if mean is None else mean.to(z.dtype)
    s = torch.ones(width, dtype=z.dtype) if std is None else std.to(z.dtype)
    gates = width if granularity == "element" else 1
    alpha = torch.full((tokens, gates), initial_alpha, dtype=z.dtype, requires_grad=True)
    optimizer = torch.optim.Adam([alpha], lr=lr)
    record: dict[str, list[float]] = {"loss": [], "information": [], "similarity": []}
    for step in range(steps):
        generator = np.random.default_rng(np.random.SeedSequence([seed, ["image", "text"].index(modality), step]))
        drawn = generator.standard_normal((noise_samples, max(largest, tokens), width), dtype=np.float32)
        noise = torch.from_numpy(drawn)[:, :tokens].to(z.dtype)
        if centred_noise:
            noise = (noise - sum(noise) / noise_samples) / (1 - 1 / noise_samples) ** 0.5

        lambda_ = torch.sigmoid(alpha)
        whitened = (z - m) / (sigma * s)
        t = m + sigma * s * (lambda_ * whitened + (1 - lambda_) * noise)  # (K, T, D)
        variance = (1 - lambda_) ** 2
        information = -0.5 * (1 + torch.log(variance) - (lambda_ * whitened) ** 2 - variance)  # (T, D)

        with replaced_in(blocks, layer, lambda hidden, t=t: t):
            embeddings = run(noise_samples)
        cosines = [(e / e.norm()) @ (target / target.norm()) for e in embeddings]
        similarity = torch.stack(cosines).mean()
        loss = beta * information.mean() - similarity

        saliency = information.sum(-1).detach().clone()
        record["loss"].append(loss.item())
        record["information"].append(information.mean().item())
        record["similarity"].append(similarity.item())
        optimizer.zero_grad()
        (gradient,) = torch.autograd.grad(loss, alpha)
        alpha.grad = gradient
        optimizer.step()
    return {"saliency": saliency.numpy(), **{name: np.array(values) for name, values in record.items()}}
