"""The mean curves of insertion and deletion, from tables of earlier versions too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from m2ib_lightning.evaluation.cosine_curves import CURVES_FIELD, PERCENTS, kept_points, mean_curves
from m2ib_lightning.evaluation.scores import SCORES_SCHEMA
from m2ib_lightning.run.counts import Counts
from m2ib_lightning.run.parts import to_record_batch, write_part


def write_scores(folder: Path, rows: list[dict[str, Any]], part: int, without: tuple[str, ...] = ()) -> None:
    (folder / "scores").mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_batches([to_record_batch(rows, SCORES_SCHEMA)], SCORES_SCHEMA).drop_columns(list(without))
    write_part(table, Counts(done=len(rows)), folder / "scores" / f"part-0001-00000-{part:06d}.parquet")


def scored(index: int, curves: dict[str, list[float]] | None) -> dict[str, Any]:
    kept = curves and [{"method": m, "measure": "text_deletion", "cosines": c} for m, c in curves.items()]
    return {"key": f"pairs.csv:{index}", "id": str(index), "image": f"{index}.png", "curves": kept}


def test_points_lie_on_the_curve() -> None:
    curve = torch.linspace(0.3, 0.1, 11, dtype=torch.float64)
    assert kept_points(curve) == pytest.approx(curve.tolist())
    assert kept_points(torch.tensor([1.0, 0.0, 1.0])) == pytest.approx(np.abs(np.linspace(-1, 1, 11)).tolist())


def test_the_means_are_over_the_pairs_that_have_a_curve(tmp_path: Path) -> None:
    draws = np.random.default_rng(0).normal(size=(3, len(PERCENTS)))
    rows = [scored(0, {"a": draws[0].tolist(), "b": draws[2].tolist()}), scored(1, None)]
    write_scores(tmp_path, rows, 0)
    write_scores(tmp_path, [scored(2, {"a": draws[1].tolist(), "other": draws[0].tolist()})], 1)
    write_scores(tmp_path, [scored(3, None)], 2, without=(CURVES_FIELD.name,))  # as earlier versions wrote it
    means = mean_curves(tmp_path, ["b", "a"], resamples=20, seed=0)
    assert {name: list(by_method) for name, by_method in means.items()} == {"text_deletion": ["b", "a"]}
    found = means["text_deletion"]["a"]
    assert [percent for percent, _ in found] == list(PERCENTS)
    assert [point.mean for _, point in found] == pytest.approx(draws[:2].mean(0).tolist(), abs=1e-6)
    assert {point.pairs for _, point in found} == {2}
    assert all(point.low <= point.mean <= point.high for _, point in found)
    assert {point.pairs for _, point in means["text_deletion"]["b"]} == {1}


def test_a_table_without_curves_has_none(tmp_path: Path) -> None:
    write_scores(tmp_path, [scored(0, None)], 0)
    assert mean_curves(tmp_path, ["a"], resamples=20, seed=0) == {}
