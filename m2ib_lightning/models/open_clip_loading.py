"""Load an OpenCLIP model by name. OpenCLIP is optional, and imported here only when a model of it is named."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from m2ib_lightning.encoder.towers import Encoder
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.files import first_line
from m2ib_lightning.m2ib.out_of_memory import is_out_of_memory
from m2ib_lightning.models.compatibility import check_compatible
from m2ib_lightning.models.open_clip_processor import OpenClipProcessor, make_processor
from m2ib_lightning.models.open_clip_source import OpenClipSource, find, read_json

PREFIX = "open_clip:"
_SHOWN = 400
"""Largest number of characters of another library's message in an error."""

_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


def load_open_clip(name: str) -> tuple[Encoder, OpenClipProcessor, Path | None]:
    """Load an OpenCLIP model.

    Args:
        name: ``open_clip:ARCHITECTURE/TAG``, ``open_clip:hf-hub:OWNER/NAME`` or ``open_clip:local-dir:FOLDER``.

    Returns:
        The two towers, the processor, and the model's local folder if it has one.

    Raises:
        M2IBError: if OpenCLIP is not installed, there is no such model, it is not supported, or its weights are not
            those of its configuration.
    """
    import_open_clip()
    with _as_loading_errors(name):
        source = find(name.removeprefix(PREFIX))
        model = _model(source)
        tokenizer = _tokenizer(source)
        config = {"model_cfg": source.model_cfg, "preprocess_cfg": model.visual.preprocess_cfg}
        encoder = Encoder(model)
        processor = make_processor(model, tokenizer, config)
    check_compatible(encoder, processor)
    return encoder, processor, source.folder


def import_open_clip() -> Any:
    """Import OpenCLIP.

    Raises:
        M2IBError: if it is not installed, or does not import.
    """
    try:
        import open_clip
    except ImportError as error:
        raise M2IBError(
            f"model.name={PREFIX}... needs OpenCLIP: pip install 'm2ib_lightning[open-clip]' (or open_clip_torch). "
            f"({first_line(error)})"
        ) from error
    except Exception as error:
        raise M2IBError(
            f"OpenCLIP is installed, and does not import: {first_line(error)}. Often torchvision is built for another "
            "torch: install both from one index"
        ) from error
    return open_clip


@contextmanager
def _as_loading_errors(name: str) -> Iterator[None]:
    """Turn whatever a damaged or hostile file makes OpenCLIP, timm or transformers raise into one error."""
    try:
        yield
    except M2IBError:
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or is_out_of_memory(error):
            raise
        if isinstance(error, pickle.UnpicklingError):
            raise M2IBError(
                f"{name}: the weights file holds more than tensors, and is not unpickled ({first_line(error)}). Save "
                "the state dict as .safetensors"
            ) from error
        reason = " ".join(str(error).split())[:_SHOWN]
        raise M2IBError(f"could not load {name}: {type(error).__name__}: {reason}") from error


def _model(source: OpenClipSource) -> Any:
    """Return the model with its weights, in evaluation mode."""
    open_clip = import_open_clip()
    cfg = copy.deepcopy(source.model_cfg)
    timm_name = cfg["vision_cfg"].get("timm_model_name")
    if timm_name is not None:
        if ":" in timm_name:
            raise M2IBError(f"timm_model_name={timm_name!r} must be an architecture of timm")
        cfg["vision_cfg"]["timm_model_pretrained"] = False
    is_hugging_face = cfg["text_cfg"].get("hf_model_name") is not None
    if is_hugging_face:
        cfg["text_cfg"]["hf_model_name"] = _text_config(cfg["text_cfg"]["hf_model_name"], source)
        cfg["text_cfg"]["hf_model_pretrained"] = False
    is_custom = cfg.pop("custom_text", False) or is_hugging_face
    kind = "CoCa" if is_custom and "multimodal_cfg" in cfg else "CustomTextCLIP" if is_custom else "CLIP"
    model = getattr(open_clip, kind)(**cfg)
    _load_weights(model, source.weights)
    preprocess = open_clip.transform.PreprocessCfg(size=model.visual.image_size)
    overlay = {key: value for key, value in source.preprocess_cfg.items() if key != "size"}
    open_clip.set_model_preprocess_cfg(model, open_clip.transform.merge_preprocess_dict(preprocess, overlay))
    return model.eval()


def _load_weights(model: Any, path: Path) -> None:
    """Load weights, all of them. Tensors are read, and nothing is unpickled."""
    open_clip = import_open_clip()
    if path.suffix not in _SUFFIXES:
        raise M2IBError(f"the weights {path.name} must be a file of kind {', '.join(_SUFFIXES)}")
    if path.suffix != ".safetensors" and os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "0") != "0":
        raise M2IBError(
            f"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set, with which {path.name} could be unpickled and run code. Unset it"
        )
    open_clip.load_checkpoint(model, str(path), strict=True, weights_only=True)


def _text_config(name: str, source: OpenClipSource) -> str:
    """Return a local folder with the configuration of a text tower of transformers.

    For a model in a folder, it is looked for there first.
    """
    from transformers.utils import cached_file

    inside = [] if source.folder is None else [source.folder / name, source.folder]
    local = [path for path in inside if (path / "config.json").is_file()]
    try:
        path = Path(str(cached_file(str(local[0]) if local else name, "config.json", local_files_only=source.is_local)))
    except Exception as error:  # the hub client and transformers raise many kinds
        raise M2IBError(
            f"the text tower's configuration, config.json of {name}, is not here: {first_line(error)}. Put it beside "
            f"the weights ('hf download {name} config.json --local-dir FOLDER')"
        ) from error
    if "auto_map" in read_json(path):
        raise M2IBError(f"the text tower {name} brings Python code of its own (auto_map), which is never run here")
    return str(path.parent)


def _tokenizer(source: OpenClipSource) -> Any:
    """Return OpenCLIP's tokenizer."""
    open_clip = import_open_clip()
    if source.model_cfg["text_cfg"].get("hf_tokenizer_name"):
        options = {"trust_remote_code": False, "local_files_only": source.is_local}
        return open_clip.get_tokenizer(source.tokenizer, **options)
    if ":" not in source.tokenizer and "siglip" in source.tokenizer.lower():
        raise M2IBError(f"OpenCLIP downloads the tokenizer of {source.tokenizer} from outside the hub: not supported")
    return open_clip.get_tokenizer(source.tokenizer)
