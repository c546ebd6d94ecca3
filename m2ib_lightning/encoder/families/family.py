"""The description of a model family, and the registry of families.

Legend: B pairs, N sequences (each a draw of a pair), T tokens, D width, P pooled width, E embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from m2ib_lightning.encoder.families.block_parts import BlockParts, PoolingParts
from m2ib_lightning.encoder.layout import Layout
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.registry import Registry

Inputs = Mapping[str, Tensor]
"""Inputs of one tower: ``pixel_values`` (B, 3, H, W), or ``input_ids`` and ``attention_mask`` (B, T).

Pictures of several sizes are flattened to (B, 3, longest), and ``picture_sizes`` (B, 2) holds heights and widths.
"""


def no_arguments(model: Any, hidden: Tensor, layout: Layout) -> dict[str, Any]:
    """Return no arguments: the blocks take hidden states alone."""
    return {}


@dataclass(frozen=True)
class TowerSpec:
    """The description of one tower of an image-text model: how to run it block by block.

    A tower pools either at one token (``pooled``) or over all of them (``pool``).

    Attributes:
        embed: (model, inputs) -> (B, T, D), the first block's input.
        blocks: model -> list of blocks, each mapping (B, T, D) to (B, T, D), or to a tuple that begins with it.
        head: (model, (N, P)) -> (N, E), what follows the pooling: final norm, projection.
        max_tokens: model -> T_max, the tower's largest number of tokens at its own resolution.
        width: model -> D.
        arguments: (model, hidden, layout) -> further arguments of every block, such as the attention mask.
        pooled: (model, inputs) -> (B,) position of the token that pooling reads.
        pool: (model, (N, T, D), layout) -> (N, P), pooling that reads more than one token.
        reads: (model, inputs) -> (B, T) bool, the tokens that the tower reads; None if it reads every token.
        attends: (model, inputs) -> (B, T) bool, the tokens that any token attends to; None if they are those of
            ``reads``.
        prefix_tokens: number of leading tokens that are not patches (class token, registers); for image towers.
        grid: (model, (height, width) in pixels) -> number of rows and columns of patches; for image towers.
        own: (model, inputs) -> (B, E), the embedding by the model's own function; None for ``get_image_features`` and
            ``get_text_features``.
        parts: block -> parts from which the loop builds a fused block, or None if the block has been modified. The
            function is None for a family whose blocks are of another kind.
        causal: whether a token reads only itself and the tokens before it; used with ``parts``.
        words: model -> table of word embeddings, for text towers; methods that remove words need it.
        pool_parts: model -> parts of the attention that pools over all tokens; methods that read attention need it.
    """

    embed: Callable[[Any, Inputs], Tensor]
    blocks: Callable[[Any], Sequence[nn.Module]]
    head: Callable[[Any, Tensor], Tensor]
    max_tokens: Callable[[Any], int]
    width: Callable[[Any], int]
    arguments: Callable[[Any, Tensor, Layout], dict[str, Any]] = no_arguments
    pooled: Callable[[Any, Inputs], Tensor] | None = None
    pool: Callable[[Any, Tensor, Layout], Tensor] | None = None
    reads: Callable[[Any, Inputs], Tensor] | None = None
    attends: Callable[[Any, Inputs], Tensor] | None = None
    prefix_tokens: int = 0
    grid: Callable[[Any, tuple[int, int]], tuple[int, int]] | None = None
    own: Callable[[Any, Inputs], Tensor] | None = None
    parts: Callable[[Any], BlockParts | None] | None = None
    causal: bool = False
    words: Callable[[Any], nn.Embedding] | None = None
    pool_parts: Callable[[Any], PoolingParts] | None = None

    def __post_init__(self) -> None:
        if (self.pooled is None) == (self.pool is None):
            raise ValueError("a TowerSpec needs either pooled= (pooling at one token) or pool= (over all tokens)")


def patch_grid(model: Any, size: tuple[int, int]) -> tuple[int, int]:
    """Return the number of rows and columns of patches in a picture. The vision config must have a ``patch_size``."""
    patch: int = model.config.vision_config.patch_size
    return size[0] // patch, size[1] // patch


def logit_scale(model: Any) -> Tensor:
    """Return the factor of the cosines of a model that learns its logarithm."""
    factor: Tensor = model.logit_scale.exp()
    return factor


@dataclass(frozen=True)
class Family:
    """A family of image-text models: its two towers, and how its captions are padded.

    Attributes:
        image: description of the image tower.
        text: description of the text tower.
        padding: the tokenizer's ``padding`` argument: True (to the longest caption of the batch) or ``"max_length"``.
        text_arguments: names of the tokenizer's outputs that the model is called with.
        scale: model -> (), the factor of the cosines in the model's own loss, for fine-tuning.
    """

    image: TowerSpec
    text: TowerSpec
    padding: bool | str = True
    text_arguments: tuple[str, ...] = ("input_ids", "attention_mask")
    scale: Callable[[Any], Tensor] = logit_scale


@dataclass(frozen=True)
class FromModel:
    """A function that makes a family from the loaded model itself, for models that have no configuration.

    Attributes:
        make: model -> family.
    """

    make: Callable[[Any], Family]


FamilySource = Family | FromModel | Callable[[Any], Family]
"""A family, or a function that makes it from the model's configuration, for models that combine any two towers.

``FromModel`` makes it from the model.
"""


@dataclass(frozen=True)
class About:
    """What a reader wants to know of a family.

    Attributes:
        title: name of the family.
        example: a name to load a member by.
        tested: what it was tested with: "bundled model", "random weights" or "not tried".
    """

    title: str
    example: str
    tested: str = "not tried"


_FAMILIES: Registry[FamilySource] = Registry("model family", "register_family")
_ABOUT: dict[str, About] = {}
_REFUSED: dict[str, str] = {}


def register_family(name: str, family: FamilySource, about: About | None = None) -> None:
    """Add a family under the name of its model class, or under the ``model_type`` of its configuration.

    The class's own name is looked for first, then the ``model_type``, then the names of the classes it derives from.
    The built-in families are registered by class, so that another class with the same ``model_type`` is not taken for
    them.

    Args:
        name: name of the class, such as ``CLIPModel``, or ``model_type``. A common name takes its module with it, as in
            ``open_clip.model.CLIP``.
        family: the family, a function (config) -> family, or ``FromModel`` with a function (model) -> family.
        about: what ``list_models`` says of it; None to say that it was registered by the user.

    Raises:
        ValueError: if the name is registered already.
    """
    _FAMILIES.register(name, family)
    _ABOUT[name] = about or About(name, f"a folder whose config.json names {name}", "registered here")


def refuse_family(class_name: str, reason: str) -> None:
    """Record why models of a class can't be explained; the error says it."""
    _REFUSED[class_name] = reason


def registered_families() -> dict[str, About]:
    """Return what is known of the registered families, by the name that each is registered under."""
    return {name: _ABOUT[name] for name in _FAMILIES}


def refused_families() -> dict[str, str]:
    """Return the reasons of the refused classes, by class name."""
    return dict(sorted(_REFUSED.items()))


def family_of(model: Any) -> Family:
    """Return the family of a loaded model.

    Raises:
        M2IBError: if the model's class is not registered. The message lists the supported ones.
    """
    own, *bases = type(model).__mro__
    config = getattr(model, "config", None)
    names = [*_names(own), _model_type(config), *(name for base in bases for name in _names(base))]
    source = _source(own.__name__, names, config)
    return source.make(model) if isinstance(source, FromModel) else _made(source, config)


def family_of_class(class_names: Sequence[str], config: Any) -> Family | None:
    """Return the family of a class of models, before a model is made; None if only a model can tell.

    Args:
        class_names: names of the class and of those that it derives from.
        config: configuration of the model.

    Raises:
        M2IBError: if the class is not registered. The message lists the supported ones.
    """
    own, *bases = class_names
    source = _source(own, [own, _model_type(config), *bases], config)
    return None if isinstance(source, FromModel) else _made(source, config)


def _names(cls: type) -> tuple[str, str]:
    return f"{cls.__module__}.{cls.__name__}", cls.__name__


def _model_type(config: Any) -> str:
    return str(getattr(config, "model_type", ""))


def _made(source: Family | Callable[[Any], Family], config: Any) -> Family:
    return source if isinstance(source, Family) else source(config)


def _source(own: str, names: Sequence[str], config: Any) -> FamilySource:
    """Return what is registered under the first of the names that is registered or refused."""
    for name in names:
        if name in _REFUSED:
            raise M2IBError(f"models of class {own} can't be explained: {_REFUSED[name]}")
        if name in _FAMILIES:
            return _FAMILIES.get(name)
    raise M2IBError(
        f"models of class {own} (model_type {_model_type(config)!r}) are not supported; the supported ones are "
        f"{', '.join(_FAMILIES)}. Another family can be added with "
        "m2ib_lightning.register_family(class_name, Family(...))."
    )
