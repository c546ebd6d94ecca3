"""Launches: their numbers, the locks of their ranks, and the states of other ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from m2ib_lightning import M2IBError
from m2ib_lightning.run.sharding import begin_launch, ranks_at_work
from m2ib_lightning.run.sharding import launch as launch_module


def test_the_state_of_a_rank_is_unknown_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = begin_launch(tmp_path / "launches", 3, 10)
    assert launch.others(0) == {1: "lost", 2: "lost"}
    with launch.lock(1):
        monkeypatch.setattr(launch_module, "fcntl", None)
        assert launch.others(0) == {1: "unknown", 2: "lost"}
        assert launch.others_at_work(0)
        assert ranks_at_work(tmp_path / "launches") == []
    launch.finish(1)
    assert launch.others(0) == {1: "finished", 2: "lost"}
    assert not launch.others_at_work(0)
    assert begin_launch(tmp_path / "launches", 1, 10).number == 2


def test_two_processes_can_not_be_the_same_rank(tmp_path: Path) -> None:
    launch = begin_launch(tmp_path / "launches", 2, 10)
    with launch.lock(1):
        pass
    with pytest.raises(M2IBError, match="two processes have the same rank"), launch.lock(1):
        pass
    assert launch.is_last()
    begin_launch(tmp_path / "launches", 2, 10)
    assert not launch.is_last()
