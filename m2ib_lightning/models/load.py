"""Load a model by name: the model, its processor, its preset, and its statistics."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from m2ib_lightning.config import MODALITIES
from m2ib_lightning.encoder.towers import Encoder
from m2ib_lightning.errors import M2IBError, nearest
from m2ib_lightning.files import first_line, read_yaml
from m2ib_lightning.m2ib.out_of_memory import is_out_of_memory
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.m2ib.statistics import Statistics
from m2ib_lightning.models.architecture import Architecture, build_model, build_processor
from m2ib_lightning.models.compatibility import check_compatible
from m2ib_lightning.models.open_clip_loading import PREFIX, load_open_clip
from m2ib_lightning.models.open_clip_processor import OpenClipProcessor, make_processor
from m2ib_lightning.models.open_clip_source import is_open_clip_folder
from m2ib_lightning.models.unwrap import unwrapped
from m2ib_lightning.models.weights import check_weights
from m2ib_lightning.pairs.prepare import Preparer

BUNDLED = {"scenes": Path(__file__).parent / "scenes"}
UNTRAINED = "scenes-untrained"
OPENAI_PREFIX = "openai:"
PRESET_FILE = "m2ib.yaml"
STATISTICS_FILE = "m2ib_statistics.safetensors"


@dataclass(frozen=True)
class LoadedModel:
    """A model with all that is needed to explain it.

    Attributes:
        encoder: the two towers.
        processor: the Hugging Face processor.
        preset: settings that the model's folder recommends; the published settings if there are none.
        statistics: layer statistics that the model's folder holds.
        name: name by which the model was loaded.
        folder: local folder of the model; None if it has none.
    """

    encoder: Encoder
    processor: Any
    preset: BottleneckSettings = field(default_factory=BottleneckSettings)
    statistics: Statistics = field(default_factory=Statistics)
    name: str = ""
    folder: Path | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The data type of the weights."""
        return next(self.encoder.model.parameters()).dtype

    @property
    def preparer(self) -> Preparer:
        """The preparer, which turns pairs into the tensors that this model reads."""
        longest = self.encoder.towers["text"].max_tokens
        limit = min(longest, getattr(self.processor, "context_length", longest))
        return Preparer(self.processor, limit, self.encoder.family.padding)


def load_model(name: str) -> LoadedModel:
    """Load a model by name.

    Args:
        name: ``scenes`` (bundled), ``scenes-untrained`` (the same model with fixed random weights), a local
            Hugging Face folder, or a hub id such as ``openai/clip-vit-base-patch32``. A model of OpenCLIP is
            ``open_clip:ARCHITECTURE/TAG``, ``open_clip:hf-hub:OWNER/NAME`` or ``open_clip:local-dir:FOLDER``. A
            checkpoint in OpenAI CLIP's own format is ``openai:FILE`` (``openai_format.py``).

    Raises:
        M2IBError: if the model does not exist or its family is not supported.
    """
    if name.startswith(OPENAI_PREFIX):
        return _load_openai(name)
    if name.startswith(PREFIX):
        return _load_open_clip(name)
    if name == UNTRAINED:
        processor = build_processor()
        return LoadedModel(Encoder(build_model(Architecture(), processor.tokenizer).eval()), processor, name=name)
    folder = BUNDLED.get(name, Path(name).expanduser())
    if is_open_clip_folder(folder):
        return _load_open_clip(f"{PREFIX}local-dir:{folder}")
    if folder.is_dir():
        encoder, processor = _from_pretrained(str(folder), f"the folder {str(folder)!r}")
        return LoadedModel(encoder, processor, _preset(folder), _statistics(folder), name, folder)
    if folder.exists():
        raise M2IBError(
            f"model.name={name!r} is a file; give the Hugging Face folder that holds it, or "
            f"model.name={OPENAI_PREFIX}{name} if it is a checkpoint in OpenAI CLIP's format"
        )
    if not _is_hub_id(name):
        names = [*BUNDLED, UNTRAINED]
        raise M2IBError(
            f"there is no model {name!r}: give a local Hugging Face folder, a hub id such as "
            f"'openai/clip-vit-base-patch32', or a bundled model: {', '.join(names)}.{nearest(name, names)}"
        )
    encoder, processor = _from_pretrained(name, f"the model {name!r} from the hub")
    return LoadedModel(encoder, processor, name=name)


def _load_openai(name: str) -> LoadedModel:
    from m2ib_lightning.models.openai_format import load_openai

    model, processor, folder = load_openai(name)
    encoder = Encoder(model)
    check_compatible(encoder, processor)
    return LoadedModel(encoder, processor, _preset(folder), name=name)  # statistics and folder are other weights'


def _load_open_clip(name: str) -> LoadedModel:
    encoder, processor, folder = load_open_clip(name)
    if folder is None:
        return LoadedModel(encoder, processor, name=name)
    return LoadedModel(encoder, processor, _preset(folder), _statistics(folder), name, folder)


def wrap_model(model: Any, processor: Any) -> LoadedModel:
    """Wrap a loaded model and processor, with the preset and the statistics of their folder if it is known.

    The processor of a model of OpenCLIP is its tokenizer (``open_clip.get_tokenizer``). The model holds the rest.

    Raises:
        M2IBError: if the model's family is not supported, or model and processor do not fit each other.
    """
    model = unwrapped(model)
    encoder = Encoder(model)
    if type(model).__module__.startswith("open_clip.") and not isinstance(processor, OpenClipProcessor):
        processor = make_processor(model, processor)
    check_compatible(encoder, processor)
    name = getattr(model, "name_or_path", "")
    if name and (folder := Path(name)).is_dir():
        return LoadedModel(encoder, processor, _preset(folder), _statistics(folder), name, folder)
    return LoadedModel(encoder, processor, name=type(model).__name__)


def _is_hub_id(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 2 and all(parts) and not name.startswith((".", "~"))


def _from_pretrained(source: str, what: str) -> tuple[Encoder, Any]:
    """Load the model and its processor; check that no weight is missing and that both fit each other."""
    from transformers import AutoConfig, AutoProcessor
    from transformers.utils import logging

    from m2ib_lightning.models.classes import model_class

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # its report of missing weights becomes an error
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        if "AutoModel" in (getattr(config, "auto_map", None) or {}):
            raise ValueError("trust_remote_code")
        model, report = model_class(config).from_pretrained(  # refuses an unsupported family before reading weights
            source,
            config=config,
            dtype="auto",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # to have them in the report
        )
        processor = AutoProcessor.from_pretrained(source, backend="pil", trust_remote_code=False)
    except M2IBError:
        raise
    except Exception as error:  # a damaged or hostile folder makes transformers raise anything
        if isinstance(error, MemoryError) or is_out_of_memory(error):
            raise
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        if "sentencepiece" in reason.lower():
            raise M2IBError(
                f"{what} has a SentencePiece tokenizer: pip install 'm2ib_lightning[siglip]' (or sentencepiece)"
            ) from error
        if "trust_remote_code" in str(error):
            raise M2IBError(
                f"{what} brings Python code of its own (auto_map in config.json), which is never run here. Save its "
                "weights as a class of transformers, such as CLIPModel"
            ) from None
        raise M2IBError(
            f"could not load {what}: {reason}\n"
            "Without a network, download it elsewhere ('hf download NAME --local-dir FOLDER'), copy the folder here "
            "and give model.name=FOLDER. It needs config.json, model.safetensors, and the tokenizer's and the "
            "processor's files."
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    check_weights(report, what)
    encoder = Encoder(unwrapped(model.eval()))
    check_compatible(encoder, processor)
    return encoder, processor


def _preset(folder: Path) -> BottleneckSettings:
    path = folder / PRESET_FILE
    if not path.exists():
        return BottleneckSettings()
    groups = read_yaml(path).get("bottleneck")
    example = "'bottleneck:' with lines like 'steps: 10' below it"
    if not isinstance(groups, dict):
        raise M2IBError(f"{path} must have {example}, got {type(groups).__name__}")
    for name, value in groups.items():
        scalars = list(value.values()) if isinstance(value, dict) and name in MODALITIES else [value]
        if not all(isinstance(scalar, str | int | float | None) for scalar in scalars):
            raise M2IBError(
                f"{path}: bottleneck.{name} must be a number, a word or, for a tower, keys with such values"
            )
    try:
        return BottleneckSettings().override(groups)
    except (M2IBError, TypeError, ValueError) as error:
        raise M2IBError(f"{path}: {first_line(error)}") from error


def _statistics(folder: Path) -> Statistics:
    path = folder / STATISTICS_FILE
    return Statistics.load(path) if path.exists() else Statistics()
