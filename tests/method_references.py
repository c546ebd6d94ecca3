"""Slow oracles of the attribution methods: one pair, full passes through the untouched model, as in the papers.

No code is shared with the package. Legend: T tokens, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from math import factorial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor

from tests.reference import blocks_of, clean_embeddings, embed, hidden_states, replaced


class OnePair:
    """A pair and its model: ``pixels`` (1, 3, H, W), ``ids`` (1, T), ``places`` of its words, ``patch`` in pixels."""

    def __init__(self, model: Any, pixels: Tensor, ids: Tensor, places: Sequence[int]) -> None:
        self.model, self.pixels, self.ids, self.places = model, pixels, ids, list(places)
        self.patch: int = model.config.vision_config.patch_size
        self.side = pixels.shape[-1] // self.patch
        self.prefix = 1 if model.config.model_type == "clip" else 0
        self.clean = clean_embeddings(model, pixels, ids)
        self.table = model.text_model.embeddings.token_embedding.weight.detach()

    def cosine(self, modality: str, embedding: Tensor) -> Tensor:
        """The cosine of a tower's embedding (1, E) with the other tower's."""
        return F.cosine_similarity(embedding, self.clean["text" if modality == "image" else "image"], dim=-1)[0]

    def picture(self, pixels: Tensor) -> Tensor:
        """The cosine of another picture."""
        return self.cosine("image", embed(self.model, "image", pixels, self.ids))

    def hidden(self, modality: str, layer: int, z: Tensor) -> Tensor:
        """The cosine of other hidden states (1, T, D)."""
        with replaced(self.model, modality, layer, lambda _: z):
            return self.cosine(modality, embed(self.model, modality, self.pixels, self.ids))

    def states(self, modality: str, layer: int) -> Tensor:
        """The hidden states (1, T, D) after a layer."""
        return hidden_states(self.model, modality, layer, self.pixels, self.ids)

    def absent(self) -> Tensor:
        """The embedded caption (1, T, D) with the mean word embedding in the place of each word."""
        z = self.states("text", -1).clone()
        for place in self.places:
            z[0, place] += self.table.mean(0) - self.table[self.ids[0, place]]
        return z

    def patches(self, values: Tensor) -> Tensor:
        """The mean of each patch of (H, W)."""
        rows = [
            [
                values[y * self.patch : (y + 1) * self.patch, x * self.patch : (x + 1) * self.patch].mean()
                for x in range(self.side)
            ]
            for y in range(self.side)
        ]
        return torch.stack([torch.stack(row) for row in rows])

    def tokens(self, modality: str, values: Tensor) -> Tensor:
        """The map of values (T,)."""
        return values[self.prefix :].view(self.side, self.side) if modality == "image" else values[self.places]


def gradient(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """The gradient of a scalar function."""
    at = at.detach().clone().requires_grad_()
    return torch.autograd.grad(function(at), at)[0]


def saliency(pair: OnePair, modality: str) -> Tensor:
    if modality == "image":
        return pair.patches(gradient(pair.picture, pair.pixels)[0].abs().amax(0))
    return gradient(lambda z: pair.hidden("text", -1, z), pair.states("text", -1))[0].norm(dim=-1)[pair.places]


def integrated_gradients(pair: OnePair, modality: str, steps: int) -> Tensor:
    """The path integral by Gauss-Legendre quadrature, one point at a time."""
    end = pair.pixels if modality == "image" else pair.states("text", -1)
    start = torch.zeros_like(end) if modality == "image" else pair.absent()

    def function(x: Tensor) -> Tensor:
        return pair.picture(x) if modality == "image" else pair.hidden("text", -1, x)

    total = torch.zeros_like(end)
    for point, weight in zip(*np.polynomial.legendre.leggauss(steps), strict=True):
        total = total + weight / 2 * gradient(function, start + (point + 1) / 2 * (end - start))
    product = (end - start) * total
    return pair.patches(product[0].sum(0)) if modality == "image" else product[0].sum(-1)[pair.places]


def input_x_gradient(pair: OnePair, modality: str) -> Tensor:
    if modality == "image":
        return pair.patches((pair.pixels * gradient(pair.picture, pair.pixels))[0].sum(0))
    z = pair.states("text", -1)
    product = (z - pair.absent()) * gradient(lambda z: pair.hidden("text", -1, z), z)
    return product[0].sum(-1)[pair.places]


def gradcam(pair: OnePair, modality: str) -> Tensor:
    layer = len(blocks_of(pair.model, modality)) - 2
    z = pair.states(modality, layer)
    g = gradient(lambda z: pair.hidden(modality, layer, z), z)
    used = list(range(pair.prefix, z.shape[1])) if modality == "image" else pair.places
    weights = sum(g[0, t] for t in used) / len(used)
    return pair.tokens(modality, torch.stack([(weights * z[0, t]).sum() for t in range(z.shape[1])]).relu())


def nib(pair: OnePair, modality: str, layer: int, steps: int) -> Tensor:
    h = pair.states(modality, layer)
    total = torch.zeros_like(h)
    for i in range(1, steps + 1):
        total = total + h * gradient(lambda z: pair.hidden(modality, layer, z), i / steps * h) / steps
    return pair.tokens(modality, total[0].sum(-1))


def attention_of(pair: OnePair, modality: str) -> tuple[list[Tensor], Tensor, int]:
    """The attention (1, H, T, T) of each block, by the library's own eager code; the cosine; the pooled token."""
    model = pair.model
    model.set_attn_implementation("eager")
    tower = model.vision_model if modality == "image" else model.text_model
    z = pair.states(modality, -1).requires_grad_()
    layers: list[Tensor] = []  # from hooks, since transformers before 5.6 returns none for a SigLIP tower alone
    hooks = [
        block.self_attn.register_forward_hook(lambda _module, _args, out: layers.append(out[1]))
        for block in blocks_of(model, modality)
    ]
    with replaced(model, modality, -1, lambda _: z):
        if modality == "image":
            output = tower(pixel_values=pair.pixels)
            pooled = output.pooler_output
            embedding = model.visual_projection(pooled) if hasattr(model, "visual_projection") else pooled
        else:
            output = tower(input_ids=pair.ids)
            pooled = output.pooler_output
            embedding = model.text_projection(pooled) if hasattr(model, "text_projection") else pooled
    for hook in hooks:
        hook.remove()
    cosine = pair.cosine(modality, embedding)
    model.set_attn_implementation("sdpa")
    place = 0 if modality == "image" else pair.ids.shape[1] - 1
    return layers, cosine, place


def attention_rollout(pair: OnePair, modality: str) -> Tensor:
    layers, _, place = attention_of(pair, modality)
    total = torch.eye(layers[0].shape[-1], dtype=layers[0].dtype)
    for layer in layers:
        total = (0.5 * layer[0].mean(0) + 0.5 * torch.eye(len(total), dtype=total.dtype)) @ total
    return pair.tokens(modality, total[place].detach())


def chefer(pair: OnePair, modality: str, first: int) -> Tensor:
    layers, cosine, place = attention_of(pair, modality)
    gradients = torch.autograd.grad(cosine, layers)
    total = torch.eye(layers[0].shape[-1], dtype=layers[0].dtype)
    for layer, g in list(zip(layers, gradients, strict=True))[first:]:
        total = total + (g * layer)[0].clamp(min=0).mean(0) @ total
    return pair.tokens(modality, total[place].detach())


def grad_eclip(pair: OnePair, modality: str) -> Tensor:
    attention = blocks_of(pair.model, modality)[-1].self_attn
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, args, output: seen.update({name: output})

    handles = [getattr(attention, f"{name}_proj").register_forward_hook(keep(name)) for name in "qkv"]
    before = attention.out_proj.register_forward_pre_hook(lambda module, args: seen.update({"out": args[0]}))
    z = pair.states(modality, -1).requires_grad_()
    with replaced(pair.model, modality, -1, lambda _: z):
        cosine = pair.cosine(modality, embed(pair.model, modality, pair.pixels, pair.ids))
    for handle in (*handles, before):
        handle.remove()
    place = 0 if modality == "image" else pair.ids.shape[1] - 1
    g = torch.autograd.grad(cosine, seen["out"])[0][0, place]
    loose = F.cosine_similarity(seen["q"][0, place][None], seen["k"][0], dim=-1)
    used = loose[pair.prefix :] if modality == "image" else loose[pair.places]
    loose = (loose - used.min()) / (used.max() - used.min()).clamp(min=1e-12)
    return pair.tokens(modality, ((g * seen["v"][0]).sum(-1) * loose).clamp(min=0).detach())


@torch.no_grad()
def occlusion(pair: OnePair, modality: str) -> Tensor:
    if modality == "text":
        z, absent = pair.states("text", -1), pair.absent()
        falls = []
        for place in pair.places:
            altered = z.clone()
            altered[0, place] = absent[0, place]
            falls.append(pair.hidden("text", -1, z) - pair.hidden("text", -1, altered))
        return torch.stack(falls)
    total, count = torch.zeros(2, pair.side, pair.side, dtype=pair.pixels.dtype)
    for y in range(pair.side - 1):
        for x in range(pair.side - 1):
            altered = pair.pixels.clone()
            rows, columns = (slice(k * pair.patch, (k + 2) * pair.patch) for k in (y, x))
            altered[..., rows, columns] = 0
            total[y : y + 2, x : x + 2] += pair.picture(pair.pixels) - pair.picture(altered)
            count[y : y + 2, x : x + 2] += 1
    return total / count


@torch.no_grad()
def rise_picture(pair: OnePair, masks: Tensor) -> Tensor:
    """RISE's map for masks (N, H, W)."""
    return pair.patches(sum(pair.picture(pair.pixels * mask) * mask for mask in masks) / (0.5 * len(masks)))


@torch.no_grad()
def shapley_words(pair: OnePair) -> Tensor:
    """The exact Shapley values, over all coalitions of words."""
    z, absent, words = pair.states("text", -1), pair.absent(), pair.places

    def value(coalition: frozenset[int]) -> Tensor:
        altered = z.clone()
        for place in words:
            if place not in coalition:
                altered[0, place] = absent[0, place]
        return pair.hidden("text", -1, altered)

    values = []
    for word in words:
        others, total = [w for w in words if w != word], torch.tensor(0.0, dtype=z.dtype)
        for size in range(len(words)):
            weight = factorial(size) * factorial(len(words) - size - 1) / factorial(len(words))
            for chosen in combinations(others, size):
                total = total + weight * (value(frozenset({*chosen, word})) - value(frozenset(chosen)))
        values.append(total)
    return torch.stack(values)
