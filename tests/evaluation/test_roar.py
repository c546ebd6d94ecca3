"""ROAR+: the marked parts are removed, and training without them retrieves worse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from m2ib_lightning import load_model
from m2ib_lightning.config import FinetuneConfig
from m2ib_lightning.evaluation.roar import prepared, removed, retrained_recall
from m2ib_lightning.pairs.pair import PreparedPair
from m2ib_lightning.results.attribution import Attribution, TowerAttribution
from tests.finetuning.test_finetuning import scenes


def test_roar_removes_what_is_marked_and_nothing_else() -> None:
    model, data = scenes(8, 8)
    (batch,) = data.train_dataloader()
    results = []
    for pair in batch.pairs:
        saliency = np.zeros((8, 8), np.float32)
        saliency[2, 5] = 1.0
        words = np.zeros(len(pair.tokens), np.float32)
        words[-1] = 1.0
        results.append(Attribution(pair, image=TowerAttribution(saliency), text=TowerAttribution(words)))
    rest = removed(batch, results, 1 / 64, model.preparer)
    by_key = {pair.key: row for row, pair in enumerate(rest.pairs)}
    tokenizer = model.processor.tokenizer
    for row, pair in enumerate(batch.pairs):
        other = by_key[pair.key]
        before, after = (b.inputs["image"]["pixel_values"][r] for b, r in ((batch, row), (rest, other)))
        changed = (before != after).any(0)
        assert not changed[:16].any()
        assert not changed[24:].any()
        assert not changed[:, :40].any()
        assert torch.equal(after[:, 16:24, 40:48], torch.zeros(3, 8, 8))
        ids = rest.inputs["text"]["input_ids"][other][rest.inputs["text"]["attention_mask"][other].bool()]
        assert ids.tolist() == tokenizer(" ".join(pair.caption.split()[:-1]))["input_ids"]
    everything = removed(batch, results, 1.0, model.preparer)
    assert not everything.inputs["image"]["pixel_values"].any()
    assert everything.inputs["text"]["attention_mask"].sum(1).tolist() == [3] * 8  # a word stays


@pytest.mark.slow
def test_training_without_the_object_retrieves_worse() -> None:
    _model, data = scenes(60, 20)
    batches = list(data.train_dataloader())
    options = FinetuneConfig(lr=1e-4, warmup=1, max_logit_scale=50.0)

    def after(items: list[PreparedPair]) -> float:
        fresh = load_model("scenes")
        return retrained_recall(fresh, items[:40], items[40:], options=options, epochs=1, batch_size=20, seed=0)

    whole = after(prepared(batches))
    blank = [replace(item, pixel_values=item.pixel_values * 0) for item in prepared(batches)]
    assert whole > 0.9
    assert after(blank) < 0.6  # one blank picture for all; some captions fit several pairs
