"""ROAR+ (after Hooker et al., NeurIPS 2019, and M2IB): remove what a method marks, train on what is left, and retrieve.

If a method marks what matters, a model that is trained without it retrieves worse.

Legend: B pairs, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from lightning import Trainer
from torch.utils.data import DataLoader

from m2ib_lightning.config import FinetuneConfig
from m2ib_lightning.encoder.patches import spread
from m2ib_lightning.finetuning.clip_module import IBClipModule
from m2ib_lightning.finetuning.positives import caption_signatures, picture_signatures, positives
from m2ib_lightning.finetuning.recall import recalls
from m2ib_lightning.models import LoadedModel
from m2ib_lightning.pairs.pair import PairBatch, PreparedPair
from m2ib_lightning.pairs.prepare import Preparer
from m2ib_lightning.results.attribution import Attribution


def removed(batch: PairBatch, results: Sequence[Attribution], fraction: float, preparer: Preparer) -> PairBatch:
    """The pairs without the highest patches and words.

    Args:
        batch: the pairs.
        results: their maps, in the order of the tensors.
        fraction: of the patches, which become 0 (the mean colour), and of the words, which are not said; at least one
            patch, and all words but one at most.
        preparer: of the model.
    """
    items = []
    for row, (pair, result) in enumerate(zip(batch.pairs, results, strict=True)):
        patches = torch.from_numpy(_keep(result.image_saliency.ravel(), fraction, least=0))
        size = batch.inputs["image"]["pixel_values"].shape[-2:]
        mask = spread(patches.view(result.image_saliency.shape).float(), (size[0], size[1]))
        keep = _keep(result.text_saliency, fraction, least=1)
        gone = {place for place, kept in zip(pair.token_positions, keep, strict=True) if not kept}
        ids = batch.inputs["text"]["input_ids"][row, : _length(batch, row)].tolist()
        said = [token for place, token in enumerate(ids) if place not in gone]
        items.append(PreparedPair(replace(pair, picture=None), batch.inputs["image"]["pixel_values"][row] * mask, said))
    return preparer.collate(items)


def _keep(saliency: np.ndarray, fraction: float, least: int) -> np.ndarray:
    """Which stay: all but the highest share."""
    count = min(max(1, round(fraction * len(saliency))), len(saliency) - least)
    keep = np.ones(len(saliency), np.bool_)
    keep[np.argsort(-saliency, kind="stable")[:count]] = False
    return keep


def _length(batch: PairBatch, row: int) -> int:
    """Of a caption with its special tokens, without padding."""
    mask = batch.inputs["text"].get("attention_mask")
    return batch.inputs["text"]["input_ids"].shape[1] if mask is None else int(mask[row].sum())


def retrained_recall(
    model: LoadedModel,
    train: list[PreparedPair],
    test: list[PreparedPair],
    *,
    options: FinetuneConfig,
    epochs: int,
    batch_size: int,
    seed: int,
) -> float:
    """Fine-tune ``model``, in place and without a bottleneck; recall at 1 on ``test``, the mean of both ways."""
    module = IBClipModule(model, options, enabled=False, seed=seed)
    order = torch.Generator().manual_seed(seed)
    loader: DataLoader[PairBatch] = DataLoader(
        train,  # type: ignore[arg-type] # a list is a data set
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        generator=order,
        collate_fn=model.preparer.collate,
    )
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader)
    return recall(module, model.preparer.collate(test))


@torch.no_grad()
def recall(module: IBClipModule, batch: PairBatch) -> float:
    """At 1, the mean of both ways."""
    module.network.eval()
    outputs = module.network(batch.inputs)
    image, text = (torch.nn.functional.normalize(outputs[m].embedding, dim=-1) for m in ("image", "text"))
    pictures, captions = picture_signatures(batch.pairs), caption_signatures(batch.pairs)
    found = recalls(
        image, text, lambda k: positives(pictures[k], captions), lambda k: positives(pictures, captions[k]).T, (1,)
    )
    return sum(found.values()) / 2


def prepared(batches: Sequence[PairBatch]) -> list[PreparedPair]:
    """The pairs of batches, one by one."""
    return [
        PreparedPair(
            pair,
            batch.inputs["image"]["pixel_values"][row],
            batch.inputs["text"]["input_ids"][row, : _length(batch, row)].tolist(),
        )
        for batch in batches
        for row, pair in enumerate(batch.pairs)
    ]
