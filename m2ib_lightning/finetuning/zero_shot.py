"""Zero-shot accuracy: whether a picture is nearest to the prompt of its own class (Radford et al., ICML 2021).

Legend: N pictures, E embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor

_PROMPTS = 256
"""Number of prompts that are embedded at a time."""


def zero_shot_accuracy(
    images: Tensor, labels: Sequence[str | None], prompt: str, embed: Callable[[list[str]], Tensor]
) -> float | None:
    """Return the share of pictures whose nearest prompt is that of their class.

    Args:
        images: (N, E), embeddings of the pictures.
        labels: class of each picture; a picture without one (None) is left out.
        prompt: text with ``{}`` in place of the class.
        embed: function from C captions to their embeddings (C, E).

    Returns:
        The accuracy, or None if there are fewer than two classes.
    """
    labelled = [row for row, label in enumerate(labels) if label is not None]
    classes = sorted({label for label in labels if label is not None})
    if len(classes) < 2:
        return None
    prompts = [prompt.replace("{}", name) for name in classes]  # format would choke on braces in a name
    parts = [embed(prompts[first : first + _PROMPTS]) for first in range(0, len(prompts), _PROMPTS)]
    similarity = F.normalize(images[labelled].float(), dim=-1) @ F.normalize(torch.cat(parts).float(), dim=-1).T
    targets = torch.tensor([classes.index(label) for label in labels if label is not None], device=similarity.device)
    return float((similarity.argmax(1) == targets).float().mean())
