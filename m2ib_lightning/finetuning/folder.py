"""The folder of a fine-tuned model: plain transformers or OpenCLIP loads it, and a file in it holds the bottlenecks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.files import atomic_folder
from m2ib_lightning.finetuning.masks import MASKS
from m2ib_lightning.finetuning.network import BottleneckedModel
from m2ib_lightning.m2ib.explainer import resolve
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.models import LoadedModel
from m2ib_lightning.models.load import PRESET_FILE, STATISTICS_FILE
from m2ib_lightning.models.open_clip_processor import OpenClipProcessor

BOTTLENECK_FILE = "m2ib_bottleneck.safetensors"


def save_model(network: BottleneckedModel, model: LoadedModel, folder: Path, dtype: torch.dtype) -> None:
    """Write a folder with the model, its processor, its recommended preset, its statistics and its bottlenecks.

    The folder appears when it is complete. An older one of that name stays until then.

    Args:
        network: the trained model and bottlenecks.
        model: the model as it was loaded, with statistics of the trained weights.
        folder: the folder to write to.
        dtype: dtype of the saved weights; the model is cast to it in place.
    """
    trained: Any = network.model.to(dtype)
    with atomic_folder(folder) as unfinished:
        if isinstance(model.processor, OpenClipProcessor):
            model.processor.save_model(trained, unfinished)
        else:
            trained.save_pretrained(unfinished)
            model.processor.save_pretrained(unfinished)
        preset = OmegaConf.create({"bottleneck": model.preset.to_dict()})
        OmegaConf.save(preset, unfinished / PRESET_FILE)
        if model.statistics.priors:
            model.statistics.save(unfinished / STATISTICS_FILE)
        if network.kind is not None:
            facts = {"mask": network.kind, "hidden": network.hidden, "settings": network.settings.to_dict()}
            tensors = {name: value.contiguous().cpu() for name, value in network.bottlenecks.state_dict().items()}
            save_file(tensors, unfinished / BOTTLENECK_FILE, metadata={"m2ib": json.dumps(facts)})


def load_network(model: LoadedModel) -> BottleneckedModel:
    """Load the trained bottlenecks of a model's folder, and return the model with them.

    Raises:
        M2IBError: if the folder has no bottlenecks, or those of another model.
    """
    path = None if model.folder is None else model.folder / BOTTLENECK_FILE
    if path is None or not path.exists():
        raise M2IBError(
            f"the model {model.name!r} has no trained bottleneck ({BOTTLENECK_FILE}): task=finetune with "
            "finetune.mask=readout makes one"
        )
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["m2ib"])
        settings = resolve(BottleneckSettings().override(facts["settings"]), model.encoder)
        if facts["mask"] not in MASKS or type(facts["hidden"]) is not int or not 1 <= facts["hidden"] <= 65536:
            raise ValueError("its description is damaged")
        network = BottleneckedModel(model.encoder, settings, facts["mask"], hidden=facts["hidden"])
        network.bottlenecks.load_state_dict(load_file(path))
    except (M2IBError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        first = str(error).split("\n")[0]
        raise M2IBError(f"{path} could not be read as this model's bottleneck: {first}") from error
    return network
