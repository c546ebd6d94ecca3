"""The check that the cut towers compute the model's own function.

Legend: B pairs, E embedding size.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor, nn

from m2ib_lightning.config import Modality
from m2ib_lightning.encoder.families.block_parts import is_modified
from m2ib_lightning.encoder.families.family import Inputs
from m2ib_lightning.encoder.suffix import Suffix, describe_blocks, make_suffix
from m2ib_lightning.encoder.towers import Encoder
from m2ib_lightning.errors import M2IBError

_LOGGER = logging.getLogger(__name__)

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4}
"""Largest distance of two unit vectors (B, E) that counts as rounding, by the dtype of the weights."""

_PARTS_IN_FLOAT32_TOLERANCE = 1e-6
"""The same in float64, where transformers computes parts in float32: the softmax of eager attention, RMS norms."""

_FAST_TOLERANCE = 1e-2
"""The same where float32 products may be rounded to TF32 or bfloat16 (``torch.set_float32_matmul_precision``)."""

PAIRS = 2
"""Number of pairs that are compared: the first and the last of a batch, which is sorted by the length of the caption.

Two captions of different lengths show what padding does."""


class IdentityCheck:
    r"""Compares the cut towers, with every gate open, with the model's own ``get_*_features`` and ``forward``.

    The comparison runs once, on two pairs of a batch, and logs which blocks are fused. The distance is
    :math:`\lVert a/\lVert a\rVert - b/\lVert b\rVert \rVert`, because only the direction of an embedding matters. A
    pair for which the model gives NaN is left out: NaN in the embedding of padding reaches it there, and not here.

    Args:
        encoder: the model.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self._done = False

    def reset(self) -> None:
        """Make the next call compare again."""
        self._done = False

    @torch.no_grad()
    def __call__(self, inputs: Mapping[Modality, Inputs], suffix_of: Callable[[Modality], Suffix]) -> None:
        """Compare, unless an earlier call has done it.

        Args:
            inputs: inputs of each tower to compare; a tower without inputs is left out.
            suffix_of: function from a tower to its suffix. The model is frozen.

        Raises:
            M2IBError: if a tower is further from the model than ``TOLERANCES``; the message names the tower.
        """
        if self._done:
            return
        few: dict[Modality, Inputs] = {
            m: {name: _ends(tensor) for name, tensor in tensors.items()} for m, tensors in inputs.items() if tensors
        }
        device = next(self.encoder.model.parameters()).device
        with torch.autocast(device.type, enabled=False):
            embeddings = {m: _embed(suffix_of(m), tensors) for m, tensors in few.items()}
            for modality, tensors in few.items():
                reference = self.encoder.features(modality, tensors)
                function = _own_function(self.encoder.model, modality)
                _compare(self.encoder, modality, embeddings[modality], reference, function)
            for modality, reference in _from_forward(self.encoder, few).items():
                _compare(self.encoder, modality, embeddings[modality], reference, "forward")
        self._done = True
        suffixes = {modality: suffix_of(modality) for modality in few}
        kinds = (f"{m} blocks: {describe_blocks(suffix.tower, suffix.layer)}" for m, suffix in suffixes.items())
        _LOGGER.info("%s", "; ".join(kinds))


def _ends(tensor: Tensor) -> Tensor:
    """Return the first and the last row of a tensor (B, ...); the only row if B is 1."""
    return tensor if len(tensor) < PAIRS else torch.stack([tensor[0], tensor[-1]])


def _own_function(model: Any, modality: Modality) -> str:
    """Return the name of the model's own function, for the message."""
    names = (f"get_{modality}_features", f"encode_{modality}")
    return next((name for name in names if hasattr(model, name)), "TowerSpec.own")


def _embed(suffix: Suffix, inputs: Inputs) -> Tensor:
    """Return the embeddings (B, E) of a cut tower, computed in the dtype of the weights."""
    tower = suffix.tower
    if suffix.dtype != tower.dtype:
        suffix = make_suffix(tower, suffix.layer, tower.dtype)
    return suffix.embed(tower.prefix(inputs, suffix.layer))


def _from_forward(encoder: Encoder, inputs: Mapping[Modality, Inputs]) -> dict[Modality, Tensor]:
    """Return the embeddings that the model's ``forward`` gives, if the user has changed it."""
    model = encoder.model
    is_changed = is_modified(model) or not type(model).forward.__module__.startswith("transformers.")
    if len(inputs) < 2 or not is_changed:
        return {}
    try:
        output: Any = model(**{k: v for m, tensors in inputs.items() for k, v in encoder.arguments(m, tensors)})
    except TypeError:  # a subclass whose forward takes other arguments
        return {}
    embeddings = {m: getattr(output, f"{m}_embeds", None) for m in inputs}
    return {m: value for m, value in embeddings.items() if torch.is_tensor(value) and value.ndim == 2}


def _compare(encoder: Encoder, modality: Modality, cut: Tensor, reference: Tensor, function: str) -> None:
    if cut.shape != reference.shape:
        raise M2IBError(
            f"the {modality} tower gives embeddings of shape {tuple(cut.shape)}, and the model's own {function} of "
            f"{tuple(reference.shape)}{_advice(encoder)}"
        )
    cut, reference = F.normalize(cut.double(), dim=-1), F.normalize(reference.double(), dim=-1)
    distances = torch.linalg.vector_norm(cut - reference, dim=-1)[reference.isfinite().all(-1)]
    tolerance = _tolerance(encoder.model, encoder.towers[modality].dtype)
    if len(distances) and not bool((distances <= tolerance).all()):
        raise M2IBError(
            f"the {modality} tower is not the model's own function: its embeddings are {float(distances.max()):.2g} "
            f"from those of {function}, and {tolerance:g} is allowed{_advice(encoder)}"
        )


def _tolerance(model: Any, dtype: torch.dtype) -> float:
    if dtype == torch.float64 and _has_parts_in_float32(model):
        return _PARTS_IN_FLOAT32_TOLERANCE
    if dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
        return _FAST_TOLERANCE
    return TOLERANCES.get(dtype, _FAST_TOLERANCE)


def _has_parts_in_float32(model: nn.Module) -> bool:
    modules = list(model.modules())
    configs = [getattr(module, "config", None) for module in modules]
    is_eager = any(getattr(config, "_attn_implementation", None) == "eager" for config in configs)
    return is_eager or any(type(module).__name__.endswith("RMSNorm") for module in modules)


def _advice(encoder: Encoder) -> str:
    blocks = {module for tower in encoder.towers.values() for block in tower.blocks for module in block.modules()}
    modified = [name or "the whole model" for name, module in _outside(encoder.model, blocks) if is_modified(module)]
    where = f" (modified: {', '.join(modified[:4])})" if modified else ""
    return (
        f". A hook, an adapter, a wrapper or a subclass outside the blocks changes what {type(encoder.model).__name__} "
        f"computes{where}. Remove it or merge it into the weights, or register a family that includes it "
        "(m2ib_lightning.register_family)."
    )


def _outside(model: nn.Module, blocks: set[nn.Module]) -> list[tuple[str, nn.Module]]:
    return [(name, module) for name, module in model.named_modules() if module not in blocks]
