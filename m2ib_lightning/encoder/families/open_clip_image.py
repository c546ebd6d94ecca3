"""OpenCLIP's image towers: its own vision transformer, and timm's ``VisionTransformer`` and ``Eva``.

Legend: B pairs, N sequences (each a draw of a pair), T tokens, D width, P pooled width, E embedding size.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from m2ib_lightning.encoder.families.family import Inputs, TowerSpec, no_arguments
from m2ib_lightning.encoder.families.known_blocks import block_parts
from m2ib_lightning.encoder.families.reading import first_token
from m2ib_lightning.encoder.families.refused import NO_TOKENS
from m2ib_lightning.encoder.layout import Layout
from m2ib_lightning.errors import M2IBError


def image_tower(visual: Any) -> TowerSpec:
    """Return the description of an image tower, by its class.

    Raises:
        M2IBError: if it is of another class, or pools in a way that gives no single vector.
    """
    name = type(visual).__name__
    if name == "VisionTransformer":
        return _own_vit(visual)
    if name == "TimmModel":
        return _timm_tower(visual.trunk)
    reason = NO_TOKENS if name == "ModifiedResNet" else "it is of no known class"
    raise M2IBError(f"the image tower of this OpenCLIP model is a {name}, which can't be explained: {reason}")


def _own(model: Any, inputs: Inputs) -> Tensor:
    embedding: Tensor = model.encode_image(inputs["pixel_values"], normalize=False)
    return embedding


def _own_vit(visual: Any) -> TowerSpec:
    if visual.pool_type == "none" or (visual.attn_pool is not None and visual.attn_pool_contrastive is not None):
        raise M2IBError("this OpenCLIP image tower does not pool to one vector, or pools twice: it can't be explained")
    at_token = visual.attn_pool is None and visual.pool_type == "tok"
    return TowerSpec(
        embed=lambda model, inputs: model.visual._embeds(inputs["pixel_values"]),
        blocks=lambda model: model.visual.transformer.resblocks,
        pooled=first_token if at_token else None,
        pool=None if at_token else lambda model, hidden, layout: model.visual._pool(hidden)[0],
        head=_own_vit_head if at_token else _project,
        max_tokens=lambda model: model.visual.positional_embedding.shape[0],
        width=lambda model: model.visual.positional_embedding.shape[1],
        prefix_tokens=1,
        grid=_own_vit_grid,
        own=_own,
        parts=block_parts,
    )


def _own_vit_head(model: Any, pooled: Tensor) -> Tensor:
    return _project(model, model.visual.ln_post(pooled))


def _project(model: Any, pooled: Tensor) -> Tensor:
    return pooled if model.visual.proj is None else pooled @ model.visual.proj


def _own_vit_grid(model: Any, size: tuple[int, int]) -> tuple[int, int]:
    height, width = model.visual.patch_size
    return size[0] // height, size[1] // width


def _timm_tower(trunk: Any) -> TowerSpec:
    name = type(trunk).__name__
    if name not in ("VisionTransformer", "Eva"):
        raise M2IBError(
            f"the image tower of this OpenCLIP model is timm's {name}, which can't be explained: {NO_TOKENS}. Of "
            "timm's there is VisionTransformer (ViT, SigLIP, MobileCLIP-B, ViTamin) and Eva (EVA-02, PE-Core)"
        )
    if trunk.attn_pool is None and not trunk.global_pool:
        raise M2IBError("this OpenCLIP image tower does not pool (timm's global_pool is empty): it can't be explained")
    rotary = name == "Eva" and trunk.rope is not None
    if rotary and getattr(trunk, "rope_mixed", False):
        raise M2IBError("this OpenCLIP image tower has other rotary positions in each block (rope_mixed)")
    at_token = trunk.attn_pool is None and trunk.global_pool == "token"
    return TowerSpec(
        embed=_embed_eva if name == "Eva" else _embed_vit,
        blocks=lambda model: model.visual.trunk.blocks,
        arguments=_rotary_positions if rotary else no_arguments,
        pooled=first_token if at_token else None,
        pool=None if at_token else _timm_pool,
        head=_timm_token_head if at_token else lambda model, pooled: model.visual.head(pooled),
        max_tokens=_timm_tokens,
        width=lambda model: model.visual.trunk.embed_dim,
        prefix_tokens=trunk.num_prefix_tokens,
        grid=lambda model, size: model.visual.trunk.patch_embed.dynamic_feat_size(size),
        own=_own,
        parts=block_parts,
    )


def _embed_vit(model: Any, inputs: Inputs) -> Tensor:
    trunk = model.visual.trunk
    embedded: Tensor = trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(inputs["pixel_values"]))))
    return embedded


def _embed_eva(model: Any, inputs: Inputs) -> Tensor:
    trunk = model.visual.trunk
    embedded, _ = trunk._pos_embed(trunk.patch_embed(inputs["pixel_values"]))
    normed: Tensor = trunk.norm_pre(embedded)
    return normed


def _rotary_positions(model: Any, hidden: Tensor, layout: Layout) -> dict[str, Any]:
    """Return the rotary angles, which depend on the grid alone."""
    trunk = model.visual.trunk
    shape = {} if hasattr(trunk.rope, "feat_shape") else {"shape": trunk.patch_embed.grid_size}
    return {"rope": trunk.rope.get_embed(**shape)}


def _timm_pool(model: Any, hidden: Tensor, layout: Layout) -> Tensor:
    """Norm, pool and norm again, (N, T, D) to (N, P)."""
    trunk = model.visual.trunk
    pooled: Tensor = trunk.forward_head(trunk.norm(hidden))
    return pooled


def _timm_token_head(model: Any, pooled: Tensor) -> Tensor:
    trunk = model.visual.trunk
    embedding: Tensor = model.visual.head(trunk.forward_head(trunk.norm(pooled[:, None])))
    return embedding


def _timm_tokens(model: Any) -> int:
    trunk = model.visual.trunk
    rows, columns = trunk.patch_embed.grid_size
    tokens: int = trunk.num_prefix_tokens + rows * columns
    return tokens
