"""Fine-tuning: losses, noise, what is trained, and that ranks and interruptions change nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from lightning import Trainer
from safetensors.torch import load_file
from transformers import CLIPModel

from m2ib_lightning import explain, load_model
from m2ib_lightning.cli import main
from m2ib_lightning.config import FinetuneConfig
from m2ib_lightning.datamodules.scenes import ScenesDataModule
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.finetuning import FinetuneDataModule, IBClipModule
from m2ib_lightning.finetuning.data import EpochSampler
from m2ib_lightning.finetuning.folder import BOTTLENECK_FILE
from m2ib_lightning.finetuning.losses import contrastive_loss, sigmoid_loss
from m2ib_lightning.finetuning.module import draw_pair_noise, fingerprints, positives
from m2ib_lightning.finetuning.network import BottleneckedModel
from m2ib_lightning.finetuning.recall import recalls
from m2ib_lightning.models import LoadedModel
from m2ib_lightning.pairs import Pair
from m2ib_lightning.settings import MODALITIES, BottleneckSettings
from m2ib_lightning.towers import Encoder
from m2ib_lightning.truth import Truth
from tests.conftest import relative_difference
from tests.reference import clean_embeddings
from tests.tiny import FAMILIES, make_batch, make_model, make_pairs

ROOT = Path(__file__).parent.parent
SETTINGS = BottleneckSettings().override({"image": {"layer": 0}, "text": {"layer": 1}})


def normalised(count: int, width: int = 8, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).double(), dim=-1)


def test_with_one_positive_each_the_loss_is_clips() -> None:
    image, text, scale = normalised(6), normalised(6, seed=1), torch.tensor(20.0)
    logits = scale * image @ text.T
    labels = torch.arange(6)
    expected = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    eye = torch.eye(6, dtype=torch.bool)
    found = contrastive_loss(image, text, scale, (eye, eye), slice(0, 6))
    assert found.item() == pytest.approx(expected.item(), abs=1e-9)


def test_with_several_positives_the_loss_is_its_definition() -> None:
    image, text, scale = normalised(4), normalised(4, seed=1), torch.tensor(5.0)
    positive = torch.eye(4, dtype=torch.bool)
    positive[0, 1] = positive[1, 0] = True
    expected = 0.0
    for logits, right in ((scale * image @ text.T, positive), (scale * text @ image.T, positive.T)):
        for row, mine in zip(logits, right, strict=True):
            others = row[~mine].exp().sum()
            expected += (
                -sum((row[p].exp() / (row[p].exp() + others)).log() for p in mine.nonzero()[:, 0]) / mine.sum() / 8
            )
    found = contrastive_loss(image, text, scale, (positive, positive.T), slice(0, 4))
    assert found.item() == pytest.approx(float(expected), abs=1e-9)


def test_the_ranks_parts_of_a_loss_average_to_the_whole() -> None:
    image, text, scale = normalised(6), normalised(6, seed=1), torch.tensor(5.0)
    positive = torch.eye(6, dtype=torch.bool)
    positive[0, 5] = positive[5, 0] = True
    whole = contrastive_loss(image, text, scale, (positive, positive.T), slice(0, 6))
    shares = [slice(k, k + 3) for k in (0, 3)]
    parts = [contrastive_loss(image, text, scale, (positive[k], positive.T[k]), k) for k in shares]
    assert sum(parts).item() / 2 == pytest.approx(whole.item(), abs=1e-12)  # type: ignore[union-attr]
    bias = torch.tensor(-3.0)
    whole = sigmoid_loss(image, text, scale, bias, positive, slice(0, 6))
    parts = [sigmoid_loss(image, text, scale, bias, positive[k], k) for k in shares]
    assert sum(parts).item() / 2 == pytest.approx(whole.item(), abs=1e-12)  # type: ignore[union-attr]


def test_the_sigmoid_loss_is_siglips() -> None:
    model = make_model("siglip").double()
    pairs = make_pairs(model, [3, 5, 2])
    batch = make_batch(model, pairs)
    ids, pixels = batch.inputs["text"]["input_ids"], batch.inputs["image"]["pixel_values"].double()
    expected = model(input_ids=ids, pixel_values=pixels, return_loss=True).loss
    image, text = (F.normalize(e, dim=-1) for e in clean_embeddings(model, pixels, ids).values())
    eye = torch.eye(3, dtype=torch.bool)
    found = sigmoid_loss(image, text, model.logit_scale.exp(), model.logit_bias, eye, slice(0, 3))
    assert found.item() == pytest.approx(expected.item(), abs=1e-9)


def test_pictures_and_captions_that_are_the_same_are_positives() -> None:
    named = [("a.png", "A star "), ("a.png", "a ring"), ("b.png", "a star"), ("c.png", "a square")]
    pairs = [Pair(str(k), str(k), image, caption) for k, (image, caption) in enumerate(named)]
    expected = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.bool)
    prints = fingerprints(pairs)
    assert torch.equal(positives(prints, prints), expected)
    assert torch.equal(positives(prints[1:3], prints), expected[1:3])


def test_a_caption_is_a_positive_of_each_picture_that_contains_what_it_names() -> None:
    known = [(("a", "b"), ("a",)), (("b", "c"), ("b",)), (("a", "b", "c"), ("c", "a")), ((), ())]
    pairs = [
        Pair(str(k), str(k), f"{k}.png", f"caption {k}", truth=Truth(None, None, [], contains=contains, named=named))
        for k, (contains, named) in enumerate(known)
    ]
    expected = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]], dtype=torch.bool)
    prints = fingerprints(pairs)
    assert torch.equal(positives(prints, prints), expected)
    assert torch.equal(positives(prints[1:3], prints), expected[1:3])


def test_recall() -> None:
    image = torch.eye(3)
    text = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    eye, both = torch.eye(3, dtype=torch.bool), torch.ones(3, 3, dtype=torch.bool)
    found = recalls(image, text, eye.__getitem__, eye.__getitem__, (1, 2, 3, 10))
    assert found["image_to_text@1"] == found["text_to_image@1"] == pytest.approx(1 / 3)
    assert found["image_to_text@3"] == 1.0
    assert "image_to_text@10" not in found
    every = recalls(image, text, both.__getitem__, both.__getitem__, (1,))
    assert every == {"image_to_text@1": 1.0, "text_to_image@1": 1.0}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mask", [None, "channel", "readout"])
def test_open_gates_and_no_bottleneck_are_the_untouched_model(family: str, mask: str | None) -> None:
    model = make_model(family).double()
    pairs = make_pairs(model, [3, 7, 1])
    network = BottleneckedModel(Encoder(model), SETTINGS.override({"initial_alpha": 80.0}), mask).double()
    outputs = network(make_batch(model, pairs, None).inputs | {"image": {"pixel_values": _pixels(pairs)}})
    for index, pair in enumerate(pairs):
        untouched = clean_embeddings(model, pair.pixels[None].double(), torch.tensor([pair.ids]))
        for modality in MODALITIES:
            assert relative_difference(outputs[modality].embedding[index], untouched[modality][0]) < 1e-6
            assert relative_difference(outputs[modality].clean[index], untouched[modality][0]) < 1e-6


def _pixels(pairs: list[Any]) -> torch.Tensor:
    return torch.stack([pair.pixels for pair in pairs]).double()


@pytest.mark.parametrize("mask", ["channel", "readout"])
def test_information_and_draws_are_their_equations(mask: str) -> None:
    model = make_model("clip").double()
    pairs = make_pairs(model, [4, 2])
    network = BottleneckedModel(Encoder(model), SETTINGS, mask).double()
    inputs: Any = make_batch(model, pairs).inputs | {"image": {"pixel_values": _pixels(pairs)}}
    seen = []
    bottleneck: Any = network.bottlenecks["image"]
    bottleneck.register_forward_hook(lambda module, args, output: seen.append((args, output)))
    noise = torch.randn(2, 17, 48, generator=torch.Generator().manual_seed(0)).double()
    outputs = network(inputs, lambda m, z: noise if m == "image" else torch.zeros_like(z))
    (z, features, context, _), (t, information) = seen[0]
    lambda_ = torch.sigmoid(bottleneck.mask(features, context)).expand_as(z)
    assert relative_difference(t, lambda_ * z + (1 - lambda_) * noise) < 1e-9
    variance = (1 - lambda_) ** 2
    literal = -0.5 * (1 + variance.log() - (lambda_ * z) ** 2 - variance)
    assert relative_difference(information, literal) < 1e-9
    assert relative_difference(outputs["image"].information, literal.mean((1, 2))) < 1e-9
    assert relative_difference(outputs["image"].saliency, literal.sum(-1)) < 1e-9
    valid = outputs["text"].saliency[1, :4]  # two words and the special tokens: padding does not count
    assert outputs["text"].information[1].item() == pytest.approx(valid.mean().item() / 32)


def test_noise_is_keyed_by_epoch_and_pair() -> None:
    one = draw_pair_noise(0, "image", 3, "pairs:7", (5, 4))
    assert torch.equal(one, draw_pair_noise(0, "image", 3, "pairs:7", (5, 4)))
    for other in (
        draw_pair_noise(1, "image", 3, "pairs:7", (5, 4)),
        draw_pair_noise(0, "text", 3, "pairs:7", (5, 4)),
        draw_pair_noise(0, "image", 4, "pairs:7", (5, 4)),
        draw_pair_noise(0, "image", 3, "pairs:8", (5, 4)),
    ):
        assert not torch.equal(one, other)


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


def scenes(
    limit: int, batch_size: int, validation: float = 0.0, seed: int = 3, truth: bool = True
) -> tuple[LoadedModel, FinetuneDataModule]:
    model = load_model("scenes")
    pairs = ScenesDataModule(model.preparer, seed=seed, limit=limit, batch_size=batch_size, truth=truth)
    pairs.setup("fit")
    return model, FinetuneDataModule(pairs, 0, validation)


def train(module: IBClipModule, data: FinetuneDataModule, **options: Any) -> Trainer:
    trainer = Trainer(
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
        **{"max_epochs": 1, **options},
    )
    trainer.fit(module, datamodule=data)
    return trainer


def weights(module: IBClipModule) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.network.model.named_parameters()}


def test_without_a_bottleneck_and_with_an_open_one_training_is_plain_contrastive() -> None:
    """By hand: CLIP's own loss, AdamW with the same groups and schedule."""
    options = FinetuneConfig(lr=1e-4, warmup=2, weight_decay=0.1)
    found = []
    for enabled, alpha in ((False, 5.0), (True, 90.0)):  # sigmoid(90) is 1, also in float32
        model, data = scenes(24, 8, truth=False)
        settings = model.preset.override({"initial_alpha": alpha, "image": {"beta": 0.0}, "text": {"beta": 0.0}})
        module = IBClipModule(model, options, settings, enabled=enabled)
        train(module, data, precision="64-true")  # Adam makes steps of rounding where a gradient is zero (key biases)
        found.append(weights(module))
    model, data = scenes(24, 8, truth=False)
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
        for other in found:
            assert torch.allclose(other[name], value, atol=1e-9), name


def test_sixteen_pairs_can_be_learnt_by_heart() -> None:
    model, data = scenes(16, 16, seed=8)
    data.validation = data.training
    settings = model.preset.override({"image": {"beta": 0.01}, "text": {"beta": 0.01}})
    module = IBClipModule(model, FinetuneConfig(lr=1e-3, warmup=5, weight_decay=0.0), settings)
    trainer = train(module, data, max_epochs=60, check_val_every_n_epoch=60)
    assert trainer.callback_metrics["val/image_to_text@1"] == 1.0
    assert trainer.callback_metrics["val/text_to_image@1"] == 1.0


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("bottleneck", set()),
        ("heads", {"visual_projection", "text_projection", "post_layernorm", "final_layer_norm", "logit_scale"}),
        ("last:1", {"layers.3", "text_model.encoder.layers.2"}),
        ("all", {"token_embedding", "layers.0"}),
    ],
)
def test_only_what_is_asked_for_is_trained_and_kept_in_checkpoints(
    which: str, expected: set[str], tmp_path: Path
) -> None:
    model, data = scenes(16, 8)
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


QUIET = ["task=finetune", "trainer.enable_progress_bar=false", "data.batch_size=4", "finetune.warmup=2"]
QUIET += ["trainer.precision=64-true"]  # Adam makes steps of rounding where a gradient is zero


def run(folder: Path, *words: str) -> int:
    return main([*QUIET, "data.limit=24", "finetune.lr=1e-4", f"output_dir={folder}", *words])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finetune") / "run"
    assert run(folder, "trainer.max_epochs=3", "finetune.mask=readout") == 0
    return folder


def assert_same_weights(one: Path, other: Path, tolerance: float) -> None:
    first, second = (
        CLIPModel.from_pretrained(folder / "model").state_dict() | load_file(folder / "model" / BOTTLENECK_FILE)
        for folder in (one, other)
    )
    assert set(first) == set(second)
    for name, value in first.items():
        assert torch.allclose(value, second[name], atol=tolerance), name


def test_what_a_run_leaves_is_loaded_by_plain_transformers_and_by_explain(done: Path) -> None:
    assert isinstance(CLIPModel.from_pretrained(done / "model"), CLIPModel)
    summary = json.loads((done / "summary.json").read_text())
    for name in ("image_to_text@1", "text_to_image@1", "image_information", "text_information", "image_pointing"):
        assert f"val/{name}" in summary
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    result = explain(image, "a red circle", model=str(done / "model"), method="readout")
    assert result.image_saliency.shape == (8, 8)
    assert result.unit == "nats"
    again = explain(
        [image, image], ["a red circle", "a blue star on the left"], model=str(done / "model"), method="readout"
    )
    assert relative_difference(again[0].image_saliency, result.image_saliency) < 1e-5
    assert relative_difference(again[1].image_saliency, result.image_saliency) > 1e-6
    assert explain(image, "a red circle", model=str(done / "model")).final_loss is not None


@pytest.mark.slow
def test_a_run_that_is_resumed_has_the_weights_of_one_that_is_not(done: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code = "import sys; from m2ib_lightning.cli import main; sys.exit(main())"
    words = [*QUIET, "data.limit=24", "finetune.lr=1e-4", f"output_dir={folder}", "finetune.mask=readout"]
    stop = (
        "import os, signal; from lightning import Callback; from m2ib_lightning.finetuning import IBClipModule as M\n"
        + ("M.on_validation_epoch_start = lambda self: os._exit(9) if self.current_epoch == 1 else None\n")
    )
    killed = subprocess.run([sys.executable, "-c", stop + code, *words, "trainer.max_epochs=3"], timeout=200)
    assert killed.returncode == 9
    assert not (folder / "model").exists()
    subprocess.run([sys.executable, "-c", code, *words, "trainer.max_epochs=3", "resume=true"], check=True, timeout=200)
    assert_same_weights(folder, done, 1e-6)


def test_two_ranks_give_the_weights_of_one_with_the_double_batch(done: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = [*QUIET, "data.limit=24", "finetune.lr=1e-4", f"output_dir={folder}", "finetune.mask=readout"]
    words += ["trainer.max_epochs=3", "data.batch_size=2", "trainer.devices=2", "trainer.strategy=ddp"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, ROOT / "fit.py", *words], check=True, env=environment, cwd=tmp_path, timeout=300)
    assert_same_weights(folder, done, 1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.limit=24", "finetune.train=most"], "finetune.train must be all, heads, bottleneck, or last:N"),
        (["data.limit=24", "finetune.train=last:9"], "last:N with N from 1 to 4 blocks, got 'last:9'"),
        (["data.limit=24", "finetune.loss=hinge"], "finetune.loss must be one of contrastive, sigmoid, similarity"),
        (["data.limit=24", "finetune.train=bottleneck", "bottleneck.enabled=false"], "leave nothing to train"),
        (["data.limit=4", "finetune.validation=0.1"], "leaves none for validation"),
        (["data.limit=24", "data.batch_size=1"], "a global batch of one pair has nothing to contrast"),
        (["data.limit=24", "data.batch_size=64"], "do not fill one global batch of 64"),
        (["data.limit=24", "finetune.validation=1.5"], "must be a share from 0 to below 1"),
        (["data.limit=24", "trainer.strategy=fsdp"], "trainer.strategy=fsdp was never tried and is refused"),
        (["data.limit=24", "trainer.num_nodes=2"], "starts its own processes, on one machine"),
        (["data.limit=24", "trainer.precision=bf16-true"], "weights and masks must be float32"),
        (["data.limit=24", "trainer.max_epochs=-1"], "trainer.max_epochs=-1 never ends"),
        (["data.limit=24", "finetune.loss=similarity"], "knows no wrong pairs"),
        (["data.limit=24", "finetune.max_logit_scale=0"], "finetune.max_logit_scale above 1"),
        (["data.limit=24", "seed=-1"], "seed must not be negative"),
        (["data.limit=24", "trainer.strategy=samples"], "shares no gradients"),
        (["data.limit=24", "trainer.logger=false"], "trainer.logger=False is refused"),
        (["data.limit=24", "finetune.mask=tokens"], "expected one of ['channel', 'readout']"),
    ],
)
def test_mistakes(words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUIET, f"output_dir={tmp_path / 'run'}", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_model_without_a_readout_says_what_makes_one() -> None:
    with pytest.raises(M2IBError, match=r"no trained bottleneck .* finetune.mask=readout makes one"):
        explain(np.zeros((64, 64, 3), np.uint8), "a star", method="readout")


def test_the_readout_needs_a_caption(done: Path) -> None:
    with pytest.raises(M2IBError, match="not against an embedding"):
        explain(np.zeros((64, 64, 3), np.uint8), target=np.ones(96), model=str(done / "model"), method="readout")


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


def test_a_pair_of_the_other_split_never_takes_a_broken_ones_place() -> None:
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


def test_each_epoch_has_an_order_of_its_own() -> None:
    """Through the real Trainer, which is to tell the sampler."""
    model, data = scenes(16, 4)
    seen: list[tuple[int, list[str]]] = []

    class Noting(IBClipModule):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            seen.append((self.current_epoch, [pair.key for pair in batch.pairs]))
            return super().training_step(batch, batch_idx)

    train(Noting(model, FinetuneConfig(train="heads")), data, max_epochs=2)
    epochs = [[key for epoch, keys in seen if epoch == wanted for key in keys] for wanted in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]


def test_a_channel_mask_is_compared_with_the_clean_other_half() -> None:
    model, data = scenes(8, 8)
    module = IBClipModule(model, FinetuneConfig(mask="channel", train="bottleneck"))
    (batch,) = data.train_dataloader()
    noise = torch.Generator().manual_seed(0)
    outputs = module.network(batch.inputs, lambda m, z: torch.randn(z.shape, generator=noise))
    for modality, inputs in batch.inputs.items():
        features = getattr(model.encoder.model, f"get_{modality}_features")
        untouched = features(**{k: v for k, v in inputs.items() if k != "attention_mask"}).pooler_output
        assert relative_difference(outputs[modality].clean, untouched.detach()) < 1e-5
        assert relative_difference(outputs[modality].embedding.detach(), untouched.detach()) > 1e-3


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
    module.log = lambda name, value, **_: seen.append((name, float(value)))  # type: ignore[method-assign, assignment]
    expected = model(**{**batches[0].inputs["image"], **batches[0].inputs["text"]}, return_loss=True).loss.item()
    trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch))
    assert dict(seen)["train/loss"] == pytest.approx(expected, rel=1e-4)
    assert model.logit_scale.item() == pytest.approx(4.77, abs=1e-4)  # CLIP's bound, log 100, is below it


def test_statistics_are_measured_again_where_the_model_has_changed(done: Path) -> None:
    before, after = load_model("scenes").statistics, load_model(str(done / "model")).statistics
    assert set(after.priors) == set(before.priors)
    changed = [not torch.equal(before.priors[name].mean, after.priors[name].mean) for name in before.priors]
    assert all(changed)
    for name, prior in after.priors.items():
        assert torch.allclose(prior.mean, before.priors[name].mean, atol=0.3)


def test_a_run_that_is_over_is_resumed_to_the_same_summary_and_another_batch_is_refused(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = json.loads((done / "summary.json").read_text())
    words = ["trainer.max_epochs=3", "finetune.mask=readout", "resume=true"]
    assert run(done, *words) == 0
    after = json.loads((done / "summary.json").read_text())
    assert {name for name in after if name.startswith("val/")} == {n for n in before if n.startswith("val/")}
    assert after["val/image_information"] == pytest.approx(before["val/image_information"])
    capsys.readouterr()
    assert run(done, *words, "data.batch_size=8") == 2
    assert "global_batch was 4 and is now 8" in capsys.readouterr().err
    assert run(done, *words, "data.limit=20") == 2
    assert "pairs was 24 and is now 20" in capsys.readouterr().err
