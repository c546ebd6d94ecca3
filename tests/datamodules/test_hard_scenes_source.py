"""Hard scenes as a data source: keys, splits, ground truth, and an evaluation on them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from m2ib_lightning.cli import main
from m2ib_lightning.datamodules.hard_scenes import SCENES_OF_A_KIND, HardScenesDataModule, HardSceneSource
from m2ib_lightning.pairs.truth import read_truth
from m2ib_lightning.scenes.hard import KINDS
from tests.datamodules.annotated import open_pairs, opening_error, preparer


def test_a_scene_depends_on_seed_and_index_alone() -> None:
    whole, short, other = HardSceneSource(0, 1600), HardSceneSource(0, 9), HardSceneSource(1, 9)
    for index in range(9):
        assert whole[index].caption == short[index].caption
        np.testing.assert_array_equal(np.asarray(whole[index].image), np.asarray(short[index].image))
        assert not np.array_equal(np.asarray(whole[index].image), np.asarray(other[index].image))


def test_kinds_take_turns_and_a_split_keeps_the_keys() -> None:
    whole = HardSceneSource(3, 20, "all")
    assert [whole.scene(index).kind for index in range(9)] == [*KINDS, "relations"]
    for place, kind in enumerate(KINDS):
        split = HardSceneSource(3, 2, kind)
        for position in range(2):
            index = place + len(KINDS) * position
            assert split.key(position) == whole.key(index) == f"hard-scenes-3:{index}"
            assert split[position].uri == f"hard-scenes://3/{kind}/{index}"
            np.testing.assert_array_equal(np.asarray(split[position].image), np.asarray(whole[index].image))


def test_pairs_carry_their_truth() -> None:
    source = HardSceneSource(0, len(KINDS), truth=True)
    for index in range(len(KINDS)):
        scene, raw = source.scene(index), source[index].truth
        assert raw is not None
        truth = read_truth(raw, (64, 64))
        np.testing.assert_array_equal(truth.mask, scene.mask)
        assert truth.content == scene.composition.caption.content
        present, absent, *given = truth.others
        assert present.mask is not None
        assert not (present.mask & scene.mask).any()
        assert (present.kind, absent.kind) == ("present", "absent")
        assert [other.text for other in given] == [caption.text for caption in scene.composition.opposites.values()]
        assert {other.kind for other in given} == {"given"}
    assert HardSceneSource(0, 1)[0].truth is None


def test_the_number_of_scenes() -> None:
    assert len(open_pairs("data.name=hard-scenes")) == SCENES_OF_A_KIND * len(KINDS)
    assert len(open_pairs("data.name=hard-scenes", "data.split=negation")) == SCENES_OF_A_KIND
    longer = HardScenesDataModule(preparer(), split="negation", limit=300)
    assert len(longer) == 300
    assert len(HardScenesDataModule(preparer(), split="negation", limit=3)) == 3


def test_a_wrong_split_and_a_path_are_refused() -> None:
    error = opening_error("data.name=hard-scenes", "data.split=relation")
    assert "data.split of hard-scenes must be one of all, relations, nearness, sizes, counting, negation, occl" in error
    assert "got 'relation'. Did you mean 'relations'?" in error
    assert "data.name=hard-scenes paints its own pictures" in opening_error("data.name=hard-scenes", "data.path=x.csv")


@pytest.mark.slow
def test_an_evaluation_scores_maps_of_hard_scenes(tmp_path: Path) -> None:
    words = ["task=evaluate", "data.name=hard-scenes", "data.split=occlusion", "data.limit=2", "evaluate.pictures=0"]
    words += ["evaluate.methods=[gradcam,centre]", "evaluate.baseline=centre", "evaluate.metrics=[localisation]"]
    assert main([*words, "trainer.enable_progress_bar=false", f"output_dir={tmp_path / 'run'}"]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["pairs_done"] == 2
    assert summary["methods"]["gradcam"]["image_auroc"]["pairs"] == 2
