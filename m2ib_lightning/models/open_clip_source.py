"""Where an OpenCLIP model lies: its configuration, its weights and the name of its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2ib_lightning.errors import M2IBError, nearest

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"

_WEIGHTS = (
    WEIGHTS_FILE,
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
)
"""Names of the weights file in a folder, the preferred first."""

_HUB, _LOCAL = "hf-hub:", "local-dir:"


@dataclass(frozen=True)
class OpenClipSource:
    """The place of an OpenCLIP model.

    Attributes:
        model_cfg: arguments of the model's class.
        preprocess_cfg: how pictures are resized and normalised.
        weights: file with the weights.
        tokenizer: name for ``open_clip.get_tokenizer``.
        is_local: whether nothing may be downloaded.
        folder: folder of a local model; None for others.
    """

    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]
    weights: Path
    tokenizer: str
    is_local: bool = False
    folder: Path | None = None


def is_open_clip_folder(folder: Path) -> bool:
    """Return whether a folder holds a model of OpenCLIP, and none that transformers could load."""
    others = ("preprocessor_config.json", "processor_config.json")
    return (folder / CONFIG_FILE).is_file() and not any((folder / name).is_file() for name in others)


def find(name: str) -> OpenClipSource:
    """Return the place of a model. What lies on the hub is downloaded, unless ``HF_HUB_OFFLINE`` forbids it.

    Args:
        name: ``local-dir:FOLDER``, ``hf-hub:OWNER/NAME`` or ``ARCHITECTURE/TAG``, where TAG may be a weights file.

    Raises:
        M2IBError: if there is no such model, or its files are not complete.
    """
    if name.startswith(_LOCAL):
        return _in_folder(Path(name.removeprefix(_LOCAL)).expanduser())
    if name.startswith(_HUB):
        return _on_hub(name.removeprefix(_HUB))
    return _built_in(*_architecture_and_tag(name))


def _in_folder(folder: Path) -> OpenClipSource:
    if not (folder / CONFIG_FILE).is_file():
        raise M2IBError(f"model.name=open_clip:{_LOCAL}{folder}: there is no {CONFIG_FILE} in this folder")
    named = [folder / name for name in _WEIGHTS if (folder / name).is_file()]
    others = sorted(path for suffix in ("*.safetensors", "*.bin", "*.pt", "*.pth") for path in folder.glob(suffix))
    others = [path for path in others if not path.name.startswith("m2ib_")]
    if not named and len(others) != 1:
        found = ", ".join(path.name for path in others) or "none"
        raise M2IBError(f"{folder} must hold one weights file, such as {WEIGHTS_FILE}; there is {found}")
    config = read_json(folder / CONFIG_FILE)
    return _source(config, (named or others)[0], f"{_LOCAL}{folder}", str(folder / CONFIG_FILE), folder)


def _on_hub(repository: str) -> OpenClipSource:
    from open_clip.pretrained import download_pretrained_from_hf
    from transformers.utils import cached_file

    try:
        config = Path(str(cached_file(repository, CONFIG_FILE)))
        weights = Path(download_pretrained_from_hf(repository))  # .safetensors if there is one
    except Exception as error:  # the hub client raises many kinds
        raise M2IBError(_not_downloaded(f"open_clip:{_HUB}{repository}", error)) from error
    return _source(read_json(config), weights, f"{_HUB}{repository}", f"{repository}/{CONFIG_FILE}")


def _architecture_and_tag(name: str) -> tuple[str, str]:
    architecture, slash, tag = name.partition("/")
    if not slash or not tag:
        raise M2IBError(
            f"model.name=open_clip:{name} must be open_clip:ARCHITECTURE/TAG, as in "
            f"open_clip:ViT-B-32/laion2b_s34b_b79k, open_clip:{_HUB}OWNER/NAME or open_clip:{_LOCAL}FOLDER. Instead of "
            "TAG there may be a weights file"
        )
    return architecture, tag


def _built_in(architecture: str, tag: str) -> OpenClipSource:
    import open_clip

    model_cfg = open_clip.get_model_config(architecture)
    if model_cfg is None:
        names = open_clip.list_models()
        raise M2IBError(
            f"OpenCLIP has no architecture {architecture!r}.{nearest(architecture, names)} "
            "open_clip.list_models() lists all"
        )
    if Path(tag).expanduser().is_file():
        return OpenClipSource(model_cfg, {}, Path(tag).expanduser(), architecture, is_local=True)
    pretrained = open_clip.get_pretrained_cfg(architecture, tag)
    if not pretrained:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        raise M2IBError(
            f"OpenCLIP has no weights {tag!r} for {architecture}, and there is no such file. There is "
            f"{', '.join(tags) or 'none'}.{nearest(tag, tags)}"
        )
    if bool(pretrained.get("quick_gelu", False)) != bool(model_cfg.get("quick_gelu", False)):
        needs = "QuickGELU" if pretrained.get("quick_gelu") else "GELU"
        other = f"{architecture}-quickgelu" if pretrained.get("quick_gelu") else architecture.removesuffix("-quickgelu")
        raise M2IBError(
            f"the weights {tag!r} were trained with {needs}, and the architecture {architecture} has the other one: "
            f"its embeddings would be wrong. Use open_clip:{other}/{tag}"
        )
    return OpenClipSource(model_cfg, dict(pretrained), _download(architecture, tag, pretrained), architecture)


def _download(architecture: str, tag: str, pretrained: Mapping[str, Any]) -> Path:
    import open_clip
    from transformers.utils.hub import is_offline_mode

    name = f"open_clip:{architecture}/{tag}"
    if is_offline_mode() and not pretrained.get("hf_hub"):
        raise M2IBError(f"{name} would be downloaded from {pretrained.get('url')}, and HF_HUB_OFFLINE is set")
    try:
        return Path(open_clip.download_pretrained(dict(pretrained)))
    except Exception as error:  # the hub client raises many kinds
        raise M2IBError(_not_downloaded(name, error)) from error


def _not_downloaded(name: str, error: Exception) -> str:
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    return (
        f"could not get {name}: {reason}\nWithout a network, download it elsewhere ('hf download OWNER/NAME "
        f"--local-dir FOLDER'), copy the folder here and give model.name=open_clip:{_LOCAL}FOLDER, or give the weights "
        "file in place of the tag"
    )


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        M2IBError: if the file can't be read, or holds something else.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise M2IBError(f"{path} could not be read: {error}") from error
    if not isinstance(config, dict):
        raise M2IBError(f"{path} must hold a JSON object, got {type(config).__name__}")
    return config


def _source(
    config: dict[str, Any], weights: Path, tokenizer: str, where: str, folder: Path | None = None
) -> OpenClipSource:
    model_cfg, preprocess_cfg = config.get("model_cfg"), config.get("preprocess_cfg") or {}
    towers = [model_cfg.get(key) for key in ("vision_cfg", "text_cfg")] if isinstance(model_cfg, dict) else [None]
    if not all(isinstance(part, dict) for part in (model_cfg, preprocess_cfg, *towers)):
        raise M2IBError(
            f"{where} must have model_cfg with vision_cfg and text_cfg, and preprocess_cfg, all of them objects"
        )
    assert isinstance(model_cfg, dict)
    return OpenClipSource(model_cfg, preprocess_cfg, weights, tokenizer, folder is not None, folder)
