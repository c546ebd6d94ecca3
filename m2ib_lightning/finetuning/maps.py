"""Maps of a few validation pairs during training, their scores against the ground truth, and their drawings.

Legend: B pairs, T tokens.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from lightning.pytorch.loggers import Logger

from m2ib_lightning.config import Modality
from m2ib_lightning.errors import M2IBError, escaped
from m2ib_lightning.finetuning.network import BottleneckedModel, TowerOutput
from m2ib_lightning.m2ib.explainer import Explainer, resolve
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.m2ib.statistics import Statistics, needed
from m2ib_lightning.metrics.map_scores import localisation
from m2ib_lightning.models import LoadedModel
from m2ib_lightning.pairs.pair import PairBatch
from m2ib_lightning.results.attribution import Attribution, TowerAttribution
from m2ib_lightning.results.drawing import draw_attribution
from m2ib_lightning.results.unread import token_saliency
from m2ib_lightning.run.loggers import log_picture, shows_pictures

SHOWN = 4
"""Number of validation pairs whose maps are drawn."""


def readout_maps(
    network: BottleneckedModel, batch: PairBatch, outputs: Mapping[Modality, TowerOutput]
) -> list[Attribution]:
    """Return the maps that a trained readout made in a batch's forward pass, in nats per patch and per token."""
    towers, image, text = network.encoder.towers, outputs["image"], outputs["text"]
    assert image.saliency is not None
    assert text.saliency is not None
    patches = image.saliency[:, towers["image"].spec.prefix_tokens :].detach().cpu().numpy()
    words = text.saliency.detach().cpu().numpy()
    read = towers["text"].reads(batch.inputs["text"]).cpu().numpy()
    similarity = F.cosine_similarity(image.clean, text.clean, dim=-1).tolist()
    results = []
    for row, grid in enumerate(towers["image"].grids(batch.inputs["image"])):
        pair, tokens = token_saliency(batch.pairs[row], words[row], read[row])
        cells = patches[row, : math.prod(grid)].reshape(grid)
        results.append(Attribution(pair, similarity[row], TowerAttribution(cells), TowerAttribution(tokens)))
    return results


class OptimisedMaps:
    """M2IB's maps of a model that is being trained, with the preset of its folder.

    The priors are those from before the training. The saved folder's maps differ slightly, because its priors are
    measured again at the end.

    Args:
        model: the model that is trained.
        statistics: priors from before the training.
        seed: seed of the noise.
    """

    def __init__(self, model: LoadedModel, statistics: Statistics, seed: int) -> None:
        self.model = model
        self.statistics = statistics
        self.seed = seed

    @cached_property
    def settings(self) -> BottleneckSettings | None:
        """The preset of the folder; None, with one warning, if it does not fit the model or lacks statistics."""
        try:
            settings = resolve(self.model.preset, self.model.encoder)
            missing = needed(settings, self.statistics)
            reason = f"no statistics of {', '.join(f'{m} layer {k}' for m, k in missing.items())}" if missing else None
        except M2IBError as error:
            reason = str(error)
        if reason is not None:
            warnings.warn(f"no maps at validation: the folder's preset does not fit: {reason}", stacklevel=2)
            return None
        return settings

    def __call__(self, batch: PairBatch, places: Sequence[int]) -> list[Attribution]:
        """Return the maps of the pairs in some rows of a batch; the model is frozen meanwhile, on its device."""
        if not places or self.settings is None:
            return []
        weights = next(self.model.encoder.model.parameters())
        with torch.inference_mode(False), torch.autocast(weights.device.type, enabled=False):
            chosen = batch.some(places)  # copies: tensors made in inference mode take no gradients
            explainer = Explainer(self.model.encoder, self.settings, seed=self.seed, statistics=self.statistics)
            explainer.bottlenecks.to(device=weights.device, dtype=weights.dtype)
            with explainer.at_work():
                return explainer(chosen, explainer.optimizer())


def map_metrics(maps: Sequence[Attribution]) -> dict[str, float]:
    """Return the mean of each localisation score over the maps whose ground truth is known."""
    failed = [result for result in maps if result.error is not None]
    if failed:
        first = escaped(f"{failed[0].pair.id}: {failed[0].error}")
        warnings.warn(f"{len(failed)} of {len(maps)} maps at validation are left out: {first}", stacklevel=2)
    scores = [localisation(result) for result in maps if result.error is None]
    names = sorted({name for score in scores for name in score})
    columns = {name: [score[name] for score in scores if not math.isnan(score.get(name, math.nan))] for name in names}
    return {name: float(np.mean(values)) for name, values in columns.items() if values}


def draw(maps: Sequence[Attribution], loggers: Sequence[Logger], step: int) -> None:
    """Log the first maps whose pictures were kept, as drawings, to the loggers that show pictures."""
    showing = [logger for logger in loggers if shows_pictures(logger)]
    shown = [result for result in maps if result.error is None and result.pair.picture is not None][:SHOWN]
    for number, result in enumerate(shown if showing else []):
        log_picture(showing, f"val/map-{number}", draw_attribution(result), step)
