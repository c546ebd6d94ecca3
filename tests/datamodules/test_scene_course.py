"""The course that the bundled model is trained on, and its training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from m2ib_lightning import load_model
from m2ib_lightning.cli import main
from m2ib_lightning.config import FinetuneConfig
from m2ib_lightning.datamodules.scene_course import SceneCourse, SceneCourseDataModule
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.finetuning import FinetuneDataModule, IBClipModule
from m2ib_lightning.finetuning.positives import caption_signatures, picture_signatures, positives
from m2ib_lightning.models import LoadedModel
from m2ib_lightning.pairs.pair import PreparedPair
from m2ib_lightning.pairs.prepare import PairDataset
from m2ib_lightning.scenes import UNSAID, Attributes, paint_scene, truth_matrix
from m2ib_lightning.scenes.scene_captions import training_captions
from tests.conftest import ROOT
from tests.tasks.test_finetune_task import assert_same_weights
from tests.training import scenes, train, weights


def course(limit: int, batch_size: int, others: int = 3) -> tuple[LoadedModel, FinetuneDataModule]:
    model = load_model("scenes-untrained")
    pairs = SceneCourseDataModule(model.preparer, seed=0, limit=limit, batch_size=batch_size)
    pairs.setup("fit")
    return model, FinetuneDataModule(pairs, 0, 0.0, shuffle=False, hard_negatives=others)


def test_it_is_keyed_by_seed_and_place_and_becomes_harder() -> None:
    one, again, other = SceneCourse(0, 100), SceneCourse(0, 100), SceneCourse(1, 100)
    np.testing.assert_array_equal(np.asarray(one[7].image), np.asarray(again[7].image))
    assert not np.array_equal(np.asarray(one[7].image), np.asarray(other[7].image))
    objects = [one.difficulty(k).objects[1] for k in range(100)]
    assert objects == sorted(objects)
    assert (objects[0], objects[-1]) == (1, 4)


def overlapping(phrases: Sequence[Attributes]) -> bool:
    """Whether two of them share an attribute, and neither says all that the other does."""
    said = [{(place, value) for place, value in enumerate(phrase) if value != UNSAID} for phrase in phrases]
    return any(one & other and not one <= other and not other <= one for one in said for other in said)


def test_what_is_known_of_its_captions_is_which_of_them_are_true() -> None:
    """Names and prints against the scenes' own definition of truth."""
    source, batch = SceneCourse(0, 64), range(30, 64)
    _, data = course(64, 64)
    prepared = PairDataset(source, data.pairs.preparer)
    pairs = [item.pair for item in (prepared[k] for k in batch) if isinstance(item, PreparedPair)]
    assert len(pairs) == len(batch)
    seen, phrases = [], []
    for k in batch:
        rng = np.random.default_rng([0, k])
        scene = paint_scene(rng, source.difficulty(k))
        seen.append(scene.objects)
        phrases.append([caption.phrases for caption in training_captions(rng, scene.objects, 4)])
    ordered = [captions[0] for captions in phrases] + [one for captions in phrases for one in captions[1:]]
    expected = torch.from_numpy(truth_matrix(seen, ordered))
    found = positives(picture_signatures(pairs), caption_signatures(pairs, 3))
    clear = torch.tensor([not overlapping(phrases) for phrases in ordered])
    assert torch.equal(found[:, clear], expected[:, clear])
    assert clear.float().mean() > 0.8
    assert not (expected & ~found).any()
    assert 0.02 < found.float().mean() < 0.6


def test_a_batch_brings_the_other_captions_and_they_are_learnt_from() -> None:
    model, data = course(8, 8)
    (batch,) = data.train_dataloader()
    assert batch.inputs["image"]["pixel_values"].shape[0] == 8
    assert batch.inputs["text"]["input_ids"].shape[0] == 32
    losses = []

    class Noting(IBClipModule):
        def training_step(self, *arguments: object) -> torch.Tensor:
            loss = super().training_step(*arguments)  # type: ignore[arg-type]
            losses.append(loss.item())
            return loss

    module = Noting(model, FinetuneConfig(train="all", lr=2e-3, warmup=5, hard_negatives=3), enabled=False)
    train(module, data, max_epochs=15)
    assert losses[-1] < 0.5 * losses[0]


def test_the_untrained_model_is_always_the_same_and_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    one, other = (load_model("scenes-untrained").encoder.model.state_dict() for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    trained = load_model("scenes").encoder.model.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert {name: value.shape for name, value in one.items()} == {n: v.shape for n, v in trained.items()}
    assert not torch.equal(one["visual_projection.weight"], trained["visual_projection.weight"])


def test_too_few_other_captions_are_refused() -> None:
    _, data = scenes(8, 4)
    data.hard_negatives = 50
    with pytest.raises(
        M2IBError, match=r"8 pairs .* can't be read; the first: .*finetune.hard_negatives=50 and the pair has"
    ):
        next(iter(data.train_dataloader()))


def test_others_are_refused_where_nothing_is_contrasted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "task=finetune",
        "finetune.train=bottleneck",
        "finetune.hard_negatives=2",
        f"output_dir={tmp_path / 'run'}",
    ]
    assert main(words) == 2
    assert "finetune.loss=similarity, which has no negatives; got 2" in capsys.readouterr().err


@pytest.mark.parametrize("mask", ["channel", "readout"])
def test_other_captions_have_bottlenecks_and_noise_of_their_own(mask: Any) -> None:
    model, data = scenes(8, 4)
    data.hard_negatives = 2
    before = weights(module := IBClipModule(model, FinetuneConfig(train="all", lr=1e-3, hard_negatives=2, mask=mask)))
    train(module, data)
    after = weights(module)
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


SHORT = ["data.limit=80", "data.batch_size=8", "finetune.validation=0.2", "trainer.enable_progress_bar=false"]


def test_its_configuration_trains_a_model_that_explain_takes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["--config", "scenes-model", *SHORT, f"output_dir={run}"]) == 0
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 8
    assert 0 <= summary["val/image_to_text@1"] <= 1
    assert load_model(str(run / "model")).encoder.towers["image"].width == 128


@pytest.mark.slow
def test_two_ranks_train_on_other_captions_as_one_does(tmp_path: Path) -> None:
    """With as many captions of a rank that no picture answers as may be."""
    shared = ["--config", "scenes-model", *SHORT, "trainer.precision=64-true", "bottleneck.enabled=true"]
    assert main([*shared, f"output_dir={tmp_path / 'one'}"]) == 0
    words = [*shared, f"output_dir={tmp_path / 'two'}", "data.batch_size=4", "trainer.devices=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, ROOT / "fit.py", *words, "trainer.strategy=ddp"], check=True, env=environment)
    assert_same_weights(tmp_path / "one", tmp_path / "two", 1e-5)
