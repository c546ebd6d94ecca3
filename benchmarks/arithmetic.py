"""The number of floating-point operations of an explanation: a formula, which is checked against torch's counter.

Legend: T tokens, D width, I inner width, H heads, E embedding size, K noise draws. A product of (m, k) and (k, n) is
2 m k n.
"""

from __future__ import annotations

from typing import Any

from m2ib_lightning.m2ib.settings import BottleneckSettings

FORMULA = """\
W          = 8 D^2 + 4 D I                      a token through a block's weights: q, k, v, out; the perceptron
block(T)   = T (W + 4 T D)                      all tokens, with the scores and the weighted sums of attention
last(T)    = W + 4 H T D + 2 D E                one token, keys and values absorbed, and the projection
backward   = block + 4 T^2 D, last + 4 H T D    no gradient of a weight: one product per product, two per attention's
a tower    = prefix + (n block + last) + steps K (n block + last) + (steps - 1) K backward
n          = depth - layer - 2                  whole blocks after the cut"""


def tower_flops(tower: Any, projection: int, tokens: int, layer: int, settings: BottleneckSettings) -> int:
    """Return the FLOPs of explaining one pair in one tower of a CLIP model.

    Args:
        tower: the tower's Hugging Face configuration.
        projection: size of the embedding, E.
        tokens: number of tokens, T.
        layer: index of the block after which the tower is cut.
        settings: number of steps and draws.
    """
    width, heads, depth = tower.hidden_size, tower.num_attention_heads, tower.num_hidden_layers
    weights = 8 * width**2 + 4 * width * tower.intermediate_size
    block = tokens * (weights + 4 * tokens * width)
    pooled_attention = 4 * heads * tokens * width
    last = weights + pooled_attention + 2 * width * projection
    whole = depth - layer - 2
    forward = whole * block + last
    backward = whole * (block + 4 * tokens**2 * width) + last + pooled_attention
    patches = 2 * 3 * tower.patch_size**2 * width * (tokens - 1) if hasattr(tower, "patch_size") else 0
    prefix = patches + (layer + 1) * block
    draws, steps = settings.noise_samples, settings.steps
    return prefix + forward + draws * (steps * forward + (steps - 1) * backward)


def tower_bytes(tower: Any, layer: int, settings: BottleneckSettings, itemsize: int) -> tuple[int, int]:
    """Return the bytes of weights that are read by a batch's prefix, and by all steps of a chunk.

    A forward or backward pass reads every weight of the suffix once. The clean embedding takes one more forward pass.
    Activations are not counted: they may stay in the cache.
    """
    block = 4 * tower.hidden_size**2 + 2 * tower.hidden_size * tower.intermediate_size
    passes = 2 * settings.steps
    return (layer + 1) * block * itemsize, (tower.num_hidden_layers - layer - 1) * block * itemsize * passes
