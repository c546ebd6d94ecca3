"""The course that the bundled model is trained on, and training on it."""

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
from tests import ROOT
from tests.tasks.test_finetune_task import assert_same_weights
from tests.training import scenes, train, weights


def course(limit: int, batch_size: int) -> tuple[LoadedModel, FinetuneDataModule]:
    """The untrained model, and a course with three hard negatives per scene."""
    model = load_model("scenes-untrained")
    pairs = SceneCourseDataModule(model.preparer, seed=0, limit=limit, batch_size=batch_size, num_workers=0)
    pairs.setup("fit")
    return model, FinetuneDataModule(pairs, 0, 0.0, shuffle=False, hard_negatives=3)


def test_the_course_is_keyed_by_seed_and_index_and_becomes_harder() -> None:
    one, again, other = SceneCourse(0, 100), SceneCourse(0, 100), SceneCourse(1, 100)
    np.testing.assert_array_equal(np.asarray(one[7].image), np.asarray(again[7].image))
    assert not np.array_equal(np.asarray(one[7].image), np.asarray(other[7].image))
    objects = [one.difficulty(k).objects[1] for k in range(100)]
    assert objects == sorted(objects)
    assert (objects[0], objects[-1]) == (1, 4)


def overlapping(phrases: Sequence[Attributes]) -> bool:
    """Whether two phrases share an attribute and neither states all that the other does."""
    stated = [{(place, value) for place, value in enumerate(phrase) if value != UNSAID} for phrase in phrases]
    return any(one & other and not one <= other and not other <= one for one in stated for other in stated)


def test_signatures_tell_which_captions_are_true() -> None:
    """Names and signatures agree with the scenes' own definition of truth."""
    source, batch = SceneCourse(0, 64), range(30, 64)
    _, data = course(64, 64)
    prepared = PairDataset(source, data.pairs.preparer)
    pairs = [item.pair for item in (prepared[k] for k in batch) if isinstance(item, PreparedPair)]
    assert len(pairs) == len(batch)
    objects, phrases = [], []
    for k in batch:
        rng = np.random.default_rng([0, k])
        scene = paint_scene(rng, source.difficulty(k))
        objects.append(scene.objects)
        phrases.append([caption.phrases for caption in training_captions(rng, scene.objects, 4)])
    ordered = [captions[0] for captions in phrases] + [one for captions in phrases for one in captions[1:]]
    expected = torch.from_numpy(truth_matrix(objects, ordered))
    positive = positives(picture_signatures(pairs), caption_signatures(pairs, 3))
    clear = torch.tensor([not overlapping(phrases) for phrases in ordered])
    assert torch.equal(positive[:, clear], expected[:, clear])
    assert clear.float().mean() > 0.8
    assert not (expected & ~positive).any()
    assert 0.02 < positive.float().mean() < 0.6


@pytest.mark.slow
def test_a_batch_brings_hard_negatives_and_training_learns_from_them() -> None:
    model, data = course(8, 8)
    (batch,) = data.train_dataloader()
    assert batch.inputs["image"]["pixel_values"].shape[0] == 8
    assert batch.inputs["text"]["input_ids"].shape[0] == 32
    losses = []

    class Recording(IBClipModule):
        def training_step(self, *arguments: object) -> torch.Tensor:
            loss = super().training_step(*arguments)  # type: ignore[arg-type]
            losses.append(loss.item())
            return loss

    module = Recording(model, FinetuneConfig(train="all", lr=2e-3, warmup=5, hard_negatives=3), enabled=False)
    train(module, data, max_epochs=12)
    assert losses[-1] < 0.5 * losses[0]


def test_the_untrained_model_is_always_the_same_and_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    one, other = (load_model("scenes-untrained").encoder.model.state_dict() for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    trained = load_model("scenes").encoder.model.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert {name: value.shape for name, value in one.items()} == {n: v.shape for n, v in trained.items()}
    assert not torch.equal(one["visual_projection.weight"], trained["visual_projection.weight"])


def test_too_few_hard_negatives_are_refused() -> None:
    _, data = scenes(8, 4)
    data.hard_negatives = 50
    with pytest.raises(
        M2IBError, match=r"8 pairs .* can't be read; the first: .*finetune.hard_negatives=50 and the pair has"
    ):
        next(iter(data.train_dataloader()))


def test_hard_negatives_are_refused_with_similarity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "task=finetune",
        "finetune.train=bottleneck",
        "finetune.hard_negatives=2",
        f"output_dir={tmp_path / 'run'}",
    ]
    assert main(words) == 2
    assert "finetune.loss=similarity, which has no negatives; got 2" in capsys.readouterr().err


@pytest.mark.parametrize("mask", ["channel", "readout"])
def test_hard_negatives_pass_through_bottlenecks_with_noise(mask: Any) -> None:
    model, data = scenes(8, 4)
    data.hard_negatives = 2
    before = weights(module := IBClipModule(model, FinetuneConfig(train="all", lr=1e-3, hard_negatives=2, mask=mask)))
    train(module, data)
    after = weights(module)
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


SHORT = ["data.limit=40", "data.batch_size=8", "finetune.validation=0.2", "trainer.enable_progress_bar=false"]
SHORT += ["data.num_workers=0", "finetune.maps=0"]


@pytest.mark.slow
def test_the_configuration_trains_a_model_that_loads(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(["--config", "scenes-model", *SHORT, f"output_dir={run}"]) == 0
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 4
    assert 0 <= summary["val/image_to_text@1"] <= 1
    assert load_model(str(run / "model")).encoder.towers["image"].width == 128


@pytest.mark.slow
def test_two_ranks_train_on_hard_negatives_as_one_does(tmp_path: Path) -> None:
    """The ranks have unequal numbers of captions that are true of no picture."""
    shared = ["--config", "scenes-model", *SHORT, "trainer.precision=64-true", "bottleneck.enabled=true"]
    assert main([*shared, f"output_dir={tmp_path / 'one'}"]) == 0
    words = [*shared, f"output_dir={tmp_path / 'two'}", "data.batch_size=4", "trainer.devices=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, ROOT / "fit.py", *words, "trainer.strategy=ddp"], check=True, env=environment)
    assert_same_weights(tmp_path / "one", tmp_path / "two", 1e-5)
