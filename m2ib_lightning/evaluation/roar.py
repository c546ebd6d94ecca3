"""ROAR+ (after Hooker et al., NeurIPS 2019, and M2IB): remove what a method marks, train on the rest, and retrieve.

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
    """Remove the highest patches and words of each pair.

    Args:
        batch: the pairs.
        results: maps of the pairs, in the order of the tensors.
        fraction: fraction of the patches to set to 0 (the mean colour), and of the words to delete. At least one
            patch is set to 0, and at least one word stays.
        preparer: maker of the model's inputs.
    """
    items = []
    for row, (pair, result) in enumerate(zip(batch.pairs, results, strict=True)):
        patches = torch.from_numpy(_stays(result.image_saliency.ravel(), fraction, least=0))
        size = batch.inputs["image"]["pixel_values"].shape[-2:]
        mask = spread(patches.view(result.image_saliency.shape).float(), (size[0], size[1]))
        words = _stays(result.text_saliency, fraction, least=1)
        deleted = {position for position, stays in zip(pair.token_positions, words, strict=True) if not stays}
        ids = batch.inputs["text"]["input_ids"][row, : _length(batch, row)].tolist()
        ids = [token for position, token in enumerate(ids) if position not in deleted]
        items.append(PreparedPair(replace(pair, picture=None), batch.inputs["image"]["pixel_values"][row] * mask, ids))
    return preparer.collate(items)


def _stays(saliency: np.ndarray, fraction: float, least: int) -> np.ndarray:
    """Mark all values but the highest fraction of them; at least ``least`` values stay."""
    count = min(max(1, round(fraction * len(saliency))), len(saliency) - least)
    stays = np.ones(len(saliency), np.bool_)
    stays[np.argsort(-saliency, kind="stable")[:count]] = False
    return stays


def _length(batch: PairBatch, row: int) -> int:
    """Return the length of a caption with its special tokens, without padding."""
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
    """Fine-tune a model without a bottleneck, and return its ``recall`` on the test pairs.

    Args:
        model: the model; it is trained in place.
        train: pairs to train on.
        test: pairs to retrieve.
        options: ``finetune.*``.
        epochs: number of epochs.
        batch_size: number of pairs in a batch; an incomplete last batch is dropped.
        seed: seed of the batches' order and of the module.
    """
    module = IBClipModule(model, options, enabled=False, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    loader: DataLoader[PairBatch] = DataLoader(
        train,  # type: ignore[arg-type] # a list serves as a data set
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        generator=generator,
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
    """Return a module's recall at 1 on a batch, averaged over retrieval of images and of captions."""
    module.network.eval()
    outputs = module.network(batch.inputs)
    image, text = (torch.nn.functional.normalize(outputs[m].embedding, dim=-1) for m in ("image", "text"))
    pictures, captions = picture_signatures(batch.pairs), caption_signatures(batch.pairs)
    by_direction = recalls(
        image, text, lambda k: positives(pictures[k], captions), lambda k: positives(pictures, captions[k]).T, (1,)
    )
    return sum(by_direction.values()) / 2


def prepared(batches: Sequence[PairBatch]) -> list[PreparedPair]:
    """Split batches into single prepared pairs, without padding."""
    return [
        PreparedPair(
            pair,
            batch.inputs["image"]["pixel_values"][row],
            batch.inputs["text"]["input_ids"][row, : _length(batch, row)].tolist(),
        )
        for batch in batches
        for row, pair in enumerate(batch.pairs)
    ]
