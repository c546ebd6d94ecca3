"""Fine-tuning: batches, trained parameters, and the result of training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer

from m2ib_lightning import load_model
from m2ib_lightning.config import FinetuneConfig
from m2ib_lightning.datamodules.epochs import EpochSampler
from m2ib_lightning.encoder.towers import Encoder
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.finetuning import IBClipModule
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.models import LoadedModel
from tests.tiny import make_batch, make_model, make_pairs
from tests.training import scenes, train, weights

WAYS = ("image_to_text", "text_to_image")
SETTINGS = BottleneckSettings().override({"image": {"layer": 0}, "text": {"layer": 1}})


def test_batches_of_an_epoch_are_the_same_on_any_number_of_ranks() -> None:
    for epoch in (0, 1):
        whole = EpochSampler(21, 6, 5, 0, 1)
        parts = [EpochSampler(21, 3, 5, rank, 2) for rank in range(2)]
        for sampler in (whole, *parts):
            sampler.set_epoch(epoch)
        assert [a + b for a, b in zip(*parts, strict=True)] == list(whole)
        assert len(whole) == 3
    other = EpochSampler(21, 6, 5, 0, 1)
    other.set_epoch(0)
    assert list(other) != list(whole)


@pytest.mark.slow
def test_without_a_bottleneck_and_with_an_open_one_training_is_plain_contrastive() -> None:
    """The reference is written out: CLIP's own loss, AdamW with the same groups and schedule."""
    options = FinetuneConfig(lr=1e-4, warmup=2, weight_decay=0.1)
    trained = []
    for enabled, alpha in ((False, 5.0), (True, 90.0)):  # sigmoid(90) is 1, also in float32
        model, data = scenes(12, 4, truth=False)
        settings = model.preset.override({"initial_alpha": alpha, "image": {"beta": 0.0}, "text": {"beta": 0.0}})
        module = IBClipModule(model, options, settings, enabled=enabled)
        train(module, data, precision="64-true")  # Adam makes steps of rounding where a gradient is zero (key biases)
        trained.append(weights(module))
    model, data = scenes(12, 4, truth=False)
    plain: Any = model.encoder.model.double().train()
    big = [p for p in plain.parameters() if p.ndim >= 2]
    small = [p for p in plain.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": big, "weight_decay": 0.1}, {"params": small, "weight_decay": 0.0}], lr=1e-4, betas=(0.9, 0.98)
    )
    for step, batch in enumerate(data.train_dataloader()):
        rate = min(1.0, (step + 1) / 2) * 0.5 * (1 + np.cos(np.pi * max(0, step - 2) / 1))
        for group in optimizer.param_groups:
            group["lr"] = 1e-4 * rate
        captions = [pair.caption for pair in batch.pairs]
        assert len(set(captions)) == len(captions)  # else CLIP's own loss would have false negatives
        pixels = batch.inputs["image"]["pixel_values"].double()
        loss = plain(pixel_values=pixels, **batch.inputs["text"], return_loss=True).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    expected = dict(plain.named_parameters())
    for name, value in expected.items():
        for other in trained:
            assert torch.allclose(other[name], value, atol=1e-9), name


@pytest.mark.slow
def test_an_untrained_model_learns_eight_pairs_by_heart() -> None:
    model, data = scenes(8, 8, seed=8, name="scenes-untrained")
    data.validation = data.training
    settings = model.preset.override({"image": {"beta": 0.01}, "text": {"beta": 0.01}})
    recall = []

    class Recording(IBClipModule):
        def on_validation_epoch_end(self) -> None:
            super().on_validation_epoch_end()
            recall.append([float(self.trainer.callback_metrics[f"val/{way}@1"]) for way in WAYS])

    module = Recording(model, FinetuneConfig(lr=2e-3, warmup=2, weight_decay=0.0, maps=0), settings)
    train(module, data, max_epochs=24, check_val_every_n_epoch=24)
    before, after = recall
    assert max(before) < 0.5
    assert after == [1.0, 1.0]


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("bottleneck", set()),
        pytest.param(
            "heads",
            {"visual_projection", "text_projection", "post_layernorm", "final_layer_norm", "logit_scale"},
            marks=pytest.mark.slow,
        ),
        ("last:1", {"layers.3", "text_model.encoder.layers.2"}),
        pytest.param("all", {"token_embedding", "layers.0"}, marks=pytest.mark.slow),
    ],
)
def test_only_what_is_asked_for_is_trained_and_kept_in_checkpoints(
    which: str, expected: set[str], tmp_path: Path
) -> None:
    model, data = scenes(8, 4)
    before = {name: value.clone() for name, value in model.encoder.model.named_parameters()}
    module = IBClipModule(model, FinetuneConfig(train=which, lr=1e-3, warmup=1))
    trainer = train(module, data)
    changed = {name for name, value in module.network.model.named_parameters() if not torch.equal(before[name], value)}
    for part in expected:
        assert any(part in name for name in changed), part
    if which != "all":
        assert not any("embedding" in name or "layers.0" in name for name in changed)
    assert bool(changed) == bool(expected)
    trainer.save_checkpoint(tmp_path / "some.ckpt")
    checkpoint = torch.load(tmp_path / "some.ckpt", weights_only=True)
    stored = {name.removeprefix("network.model.") for name in checkpoint["state_dict"] if ".model." in name}
    assert changed <= stored
    assert not stored - {n for n, p in module.network.model.named_parameters() if p.requires_grad}
    assert checkpoint["hyper_parameters"]["finetune"]["train"] == which
    assert json.loads(json.dumps(checkpoint["hyper_parameters"])) == checkpoint["hyper_parameters"]
    fresh = IBClipModule(load_model("scenes"), FinetuneConfig(train=which))
    fresh.on_load_checkpoint(checkpoint)
    fresh.load_state_dict(checkpoint["state_dict"], strict=False)
    for name, value in fresh.network.model.named_parameters():
        assert torch.equal(value, dict(module.network.model.named_parameters())[name]), name


def test_a_checkpoint_of_another_kind_is_refused() -> None:
    model, _data = scenes(16, 8)
    module = IBClipModule(model, FinetuneConfig(train="heads"))
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    other = IBClipModule(load_model("scenes"), FinetuneConfig(train="all"))
    with pytest.raises(M2IBError, match="checkpoint is of another model or another finetune"):
        other.on_load_checkpoint(checkpoint)


def test_a_loss_that_is_nan_stops_with_the_pairs() -> None:
    model, data = scenes(16, 8)
    with torch.no_grad():
        model.encoder.model.visual_projection.weight[0, 0] = torch.nan
    module = IBClipModule(model)
    with pytest.raises(
        M2IBError, match=r"the loss is nan at step 0, on the pairs scenes-3:\d+, .*last checkpoint is kept"
    ):
        train(module, data)


def test_broken_pairs_are_replaced() -> None:
    _model, data = scenes(12, 4)
    source: Any = data.pairs.source
    read = type(source).__getitem__

    class Broken(type(source)):  # type: ignore[misc]
        def __getitem__(self, index: int) -> Any:
            raw = read(self, index)
            return replace(raw, error="broken") if index % 3 == 0 else raw

    source.__class__ = Broken
    keys = [pair.key for batch in data.train_dataloader() for pair in batch.pairs]
    assert len(keys) == 12
    assert all(int(key.split(":")[1]) % 3 for key in keys)


def test_a_broken_pair_is_never_replaced_by_one_of_the_other_split() -> None:
    _model, data = scenes(12, 4, validation=0.25)
    source: Any = data.pairs.source
    read, kept = type(source).__getitem__, {int(k) for k in data.validation}

    class Broken(type(source)):  # type: ignore[misc]
        def __getitem__(self, index: int) -> Any:
            raw = read(self, index)
            return replace(raw, error="broken") if index in (*sorted(kept)[:1], min(set(range(12)) - kept)) else raw

    source.__class__ = Broken
    trained = {pair.position for batch in data.train_dataloader() for pair in batch.pairs}
    validated = [pair.position for batch in data.val_dataloader() for pair in batch.pairs]
    assert not trained & kept
    assert set(validated) < kept


@pytest.mark.slow
def test_each_epoch_has_an_order_of_its_own() -> None:
    """The real Trainer sets the sampler's epoch."""
    model, data = scenes(16, 4)
    seen: list[tuple[int, list[str]]] = []

    class Recording(IBClipModule):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            seen.append((self.current_epoch, [pair.key for pair in batch.pairs]))
            return super().training_step(batch, batch_idx)

    train(Recording(model, FinetuneConfig(train="heads")), data, max_epochs=2)
    epochs = [[key for epoch, keys in seen if epoch == wanted for key in keys] for wanted in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]


def test_siglip_is_trained_with_its_own_loss_and_temperature() -> None:
    model = make_model("siglip")
    loaded = LoadedModel(Encoder(model), None)
    settings = SETTINGS.override({"image": {"beta": 0.0}, "text": {"beta": 0.0}, "initial_alpha": 80.0})
    with torch.no_grad():
        model.logit_scale.fill_(4.77)
    module = IBClipModule(loaded, FinetuneConfig(lr=1e-6, warmup=0), settings)
    assert module.loss_name == "sigmoid"
    batches = [make_batch(model, make_pairs(model, [3, 5, 2]))]
    batches[0].pairs = [replace(pair, image=f"{pair.key}.png") for pair in batches[0].pairs]
    trainer = Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    seen = []
    module.log = lambda name, value, **_: seen.append((name, float(value)))  # type: ignore[method-assign]
    expected = model(**{**batches[0].inputs["image"], **batches[0].inputs["text"]}, return_loss=True).loss.item()
    loader: Any = torch.utils.data.DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]
    trainer.fit(module, loader)
    assert dict(seen)["train/loss"] == pytest.approx(expected, rel=1e-4)
    assert model.logit_scale.item() == pytest.approx(4.77, abs=1e-4)  # CLIP's bound, log 100, is below it


def test_an_epoch_that_is_cut_short_does_not_continue_in_the_next() -> None:
    model, data = scenes(16, 4)
    seen: list[list[str]] = []

    class Recording(IBClipModule):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            seen.append([pair.key for pair in batch.pairs])
            return super().training_step(batch, batch_idx)

    train(Recording(model, FinetuneConfig(train="heads")), data, max_epochs=2, limit_train_batches=2)
    order = EpochSampler(16, 4, 0, 0, 1)
    order.set_epoch(1)
    assert sorted(seen[2]) == sorted(f"scenes-3:{data.training[place]}" for place in next(iter(order)))


@pytest.mark.slow
def test_validation_may_have_the_noise_of_its_pairs() -> None:
    recall = []
    for sampled in (False, True, True):
        model, data = scenes(32, 8, validation=0.5)
        settings = model.preset.override({"initial_alpha": 0.5})
        options = FinetuneConfig(train="bottleneck", bottleneck_lr=0.0, sampled=sampled, loss="contrastive", maps=0)
        trainer = train(IBClipModule(model, options, settings), data, limit_train_batches=1, num_sanity_val_steps=0)
        recall.append({name: float(value) for name, value in trainer.callback_metrics.items() if "@1" in name})
    assert recall[1] == recall[2]
    assert recall[1]["val/image_to_text@1"] < recall[0]["val/image_to_text@1"]
