"""Fingerprints cover the caption, the image, and the ground truth if there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m2ib_lightning.pairs.annotations.shapes import Shape, draw_shapes, rectangle
from m2ib_lightning.pairs.fingerprint import fingerprint, is_same, without_truth
from m2ib_lightning.pairs.pair import RawPair
from m2ib_lightning.pairs.truth import OtherCaption, RawTruth
from tests import ROOT

PAIR = RawPair("a.csv:0", None, "a.png", "a dog")


def shapes_truth(width: float = 4.0) -> RawTruth:
    """A truth as LabelMe and Label Studio have it."""
    shape = Shape("dog", partial(rectangle, 1.0, 2.0, width, 5.0), "shapes[0]")
    return RawTruth(mask=partial(draw_shapes, [shape], (20, 20)), size=(20, 20))


def of(truth: RawTruth | None) -> str:
    return fingerprint(replace(PAIR, truth=truth))


def test_a_pair_without_truth_has_the_fingerprint_of_earlier_versions() -> None:
    assert of(None) == "b40569b1ca5bfb1f-93b85ecdcfa3c372"
    assert of(RawTruth(label="dog")) == of(None)  # the class does not change a score
    assert of(RawTruth(others=[OtherCaption("given", "a cat")])) == of(None)
    assert without_truth(of(RawTruth(boxes=[[0, 0, 1, 1]]))) == of(None)


def array_box(height: float) -> RawTruth:
    """A box of a Parquet table."""
    box: Any = np.array([1.0, 2.0, 3.0, height])
    return RawTruth(boxes=[box])


ALIKE: list[Any] = [
    (lambda: RawTruth(boxes=[[0, 0, 9, 9]]), RawTruth(boxes=[[0, 0, 9, 8]])),
    (lambda: array_box(4.0), array_box(5.0)),
    (lambda: RawTruth(boxes=[]), None),
    (lambda: RawTruth(mask=np.eye(9) > 0), RawTruth(mask=np.eye(9) < 1)),
    (lambda: RawTruth(mask=b"png"), RawTruth(mask=b"other")),
    (shapes_truth, shapes_truth(4.5)),
    (lambda: RawTruth(boxes=[[0, 0, 9, 9]], size=(20, 20)), RawTruth(boxes=[[0, 0, 9, 9]], size=(40, 40))),
    (lambda: RawTruth(content=[(0, 3)]), RawTruth(content=[(0, 4)])),
    (lambda: RawTruth(others=[OtherCaption("absent", "a cat")]), RawTruth(others=[OtherCaption("absent", "a cow")])),
]


@pytest.mark.parametrize(("make", "other"), ALIKE)
def test_the_third_part_changes_with_the_truth_alone(make: Any, other: RawTruth | None) -> None:
    assert of(make()) == of(make())
    assert of(make()) != of(other)
    assert is_same(of(make()), of(other))
    assert not is_same(of(make()), of(other), truth=True)
    assert not is_same(of(make()), of(other), truth=True, failed=True)


def test_a_mask_file_counts_by_its_size_and_time(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_bytes(b"1234")
    os.utime(tmp_path / "mask.png", (1, 1))
    before = of(RawTruth(mask=tmp_path / "mask.png"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mask.png").write_bytes(b"5678")
    os.utime(tmp_path / "elsewhere" / "mask.png", (1, 1))
    assert of(RawTruth(mask=tmp_path / "elsewhere" / "mask.png")) == before
    os.utime(tmp_path / "mask.png", (2, 2))
    assert of(RawTruth(mask=tmp_path / "mask.png")) != before


@pytest.mark.slow
def test_other_processes_take_the_same_fingerprint() -> None:
    code = "from tests.pairs.test_fingerprint import of, shapes_truth; print(of(shapes_truth()))"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == of(shapes_truth())
