"""A run that is resumed after its data have changed gives no pair the map of another."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from m2ib_lightning import load_attributions
from m2ib_lightning.cli import main
from m2ib_lightning.evaluation import load_scores
from m2ib_lightning.run.differences import differences

QUICK = ["bottleneck.steps=1", "bottleneck.noise_samples=1", "trainer.enable_progress_bar=false", "data.num_workers=0"]
QUICK += ["output.tensorboard_images=0", "trainer.precision=64-true"]
OLD = [("a.png", "a red circle"), ("b.png", "a blue star"), ("c.png", "a green square")]

Rows = list[tuple[str, str]]


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8))


def content(seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, "PNG")
    return buffer.getvalue()


def write_csv(folder: Path, rows: Rows) -> Path:
    path = folder / "pairs.csv"
    path.write_text("image,caption\n" + "".join(f"{image},{caption}\n" for image, caption in rows))
    return path


def write_jsonl(folder: Path, rows: Rows) -> Path:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps({"image": image, "caption": caption}) + "\n" for image, caption in rows))
    return path


def write_parquet(folder: Path, rows: Rows) -> Path:
    """With the pictures inside."""
    path = folder / "pairs.parquet"
    images = [{"bytes": (folder / image).read_bytes(), "path": image} for image, _ in rows]
    pd.DataFrame({"image": images, "caption": [caption for _, caption in rows]}).to_parquet(path)
    return path


def write_tar(folder: Path, rows: Rows) -> Path:
    path = folder / "pairs.tar"
    with tarfile.open(path, "w") as tar:
        for index, (image, caption) in enumerate(rows):
            for name, data in (
                (f"{index:03}.png", (folder / image).read_bytes()),
                (f"{index:03}.txt", caption.encode()),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


WRITERS = {"csv": write_csv, "jsonl": write_jsonl, "parquet": write_parquet, "tar": write_tar}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate("abc"):
        picture(seed).save(tmp_path / f"{name}.png")
    return tmp_path


def fit(path: Path, run: Path, *words: str) -> int:
    return main([f"data.path={path}", f"output_dir={run}", *QUICK, *words])


def rows_of(run: Path) -> Rows:
    rows = load_attributions(run).to_list()
    return [(row["key"], row["caption"]) for row in rows]


CHANGES: dict[str, tuple[Rows, str]] = {
    "a row at the top": ([("c.png", "a white star"), *OLD], "3 changed"),
    "a corrected caption": ([OLD[0], ("b.png", "a blue circle"), OLD[2]], "1 changed in the source"),
    "another image": ([OLD[0], ("a.png", "a blue star"), OLD[2]], "1 changed in the source"),
    "sorted otherwise": (OLD[::-1], "2 changed"),
    "a row less": (OLD[:2], "1 no longer in the source"),
    "a row more at the end": ([*OLD, ("a.png", "a white star")], ""),
}


FAST = [("csv", "a row at the top"), ("parquet", "a row less")]


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        case if case in FAST else pytest.param(*case, marks=pytest.mark.slow)
        for case in ((kind, change) for kind in WRITERS for change in CHANGES)
    ],
)
def test_changed_rows_are_done_again(kind: str, change: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write: Callable[[Path, Rows], Path] = WRITERS[kind]
    new, message = CHANGES[change]
    assert fit(write(folder, OLD), folder / "run") == 0
    path = write(folder, new)
    capsys.readouterr()
    assert fit(path, folder / "run", "resume=true") == 0
    printed = capsys.readouterr().out
    assert (message in printed) if message else ("in the source" not in printed)
    assert rows_of(folder / "run") == [(f"{path.name}:{index}", caption) for index, (_, caption) in enumerate(new)]
    assert fit(path, folder / "fresh") == 0
    assert differences(folder / "run", folder / "fresh", 1e-9) == []
    resumed, fresh = (json.loads((folder / name / "summary.json").read_text()) for name in ("run", "fresh"))
    for name in ("pairs_done", "pairs_failed", "mean_similarity"):
        assert resumed[name] == pytest.approx(fresh[name], abs=1e-6)
    assert len(list((folder / "run" / "heatmaps").iterdir())) == len(new)


def test_an_image_file_that_was_replaced_is_explained_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_csv(folder, OLD)
    assert fit(path, folder / "run") == 0
    picture(9).save(folder / "b.png")
    capsys.readouterr()
    assert fit(path, folder / "run", "resume=true") == 0
    assert "1 changed in the source since their rows were written, and are done again (pairs.csv:1)" in (
        capsys.readouterr().out
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_a_start_with_a_limit_leaves_the_rest_to_a_later_one(kind: str, folder: Path) -> None:
    path = WRITERS[kind](folder, OLD)
    assert fit(path, folder / "run") == 0
    new = [*OLD[:2], ("c.png", "a white star")]
    WRITERS[kind](folder, new)
    assert fit(path, folder / "run", "resume=true", "data.limit=1") == 0
    assert [caption for _, caption in rows_of(folder / "run")] == [caption for _, caption in OLD]
    assert fit(path, folder / "run", "resume=true") == 0
    assert [caption for _, caption in rows_of(folder / "run")] == [caption for _, caption in new]


@pytest.mark.slow
def test_the_rows_of_an_earlier_version_have_no_fingerprint_and_stay(folder: Path) -> None:
    path = write_csv(folder, OLD)
    assert fit(path, folder / "run") == 0
    (part,) = (folder / "run" / "attributions").iterdir()
    table = pq.read_table(part)
    pq.write_table(table.drop_columns("fingerprint"), part)
    write_csv(folder, CHANGES["a corrected caption"][0])
    assert fit(path, folder / "run", "resume=true") == 0
    assert load_attributions(folder / "run")["fingerprint"] == [None] * 3
    assert [caption for _, caption in rows_of(folder / "run")] == [caption for _, caption in OLD]


@pytest.mark.parametrize("kind", ["tar", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("csv", "parquet"))])
def test_a_source_that_is_only_touched_or_rewritten_alike_stays(
    kind: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = WRITERS[kind](folder, OLD)
    assert fit(path, folder / "run") == 0
    parts = {part: part.stat().st_mtime_ns for part in (folder / "run" / "attributions").iterdir()}
    os.utime(path, (1, 1))
    capsys.readouterr()
    assert fit(path, folder / "run", "resume=true") == 0
    assert "in the source" not in capsys.readouterr().out
    assert {part: part.stat().st_mtime_ns for part in (folder / "run" / "attributions").iterdir()} == parts


@pytest.mark.slow
def test_an_evaluation_is_resumed_likewise(folder: Path) -> None:
    words = ["task=evaluate", 'evaluate.methods=["saliency", "random"]', "evaluate.baseline=saliency"]
    words += ["evaluate.metrics=[confidence]", "evaluate.probed=0", "evaluate.pictures=0"]
    path = write_csv(folder, OLD)
    assert fit(path, folder / "run", *words) == 0
    write_csv(folder, CHANGES["a corrected caption"][0])
    assert fit(path, folder / "run", *words, "resume=true") == 0
    assert fit(path, folder / "fresh", *words) == 0
    tables: list[Any] = [load_scores(folder / name) for name in ("run", "fresh")]
    first, second = (t[t["measure"] != "seconds"].reset_index(drop=True) for t in tables)
    pd.testing.assert_frame_equal(first, second)


@pytest.mark.parametrize(
    "change",
    [
        "a corrected caption",
        *(pytest.param(change, marks=pytest.mark.slow) for change in ("another image", "sorted otherwise")),
    ],
)
def test_a_training_refuses_other_pairs(change: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["task=finetune", "data.batch_size=2", "finetune.validation=0", "trainer.max_steps=1", "finetune.maps=0"]
    path = write_csv(folder, OLD)
    assert fit(path, folder / "run", *words) == 0
    write_csv(folder, CHANGES[change][0])
    assert fit(path, folder / "run", *words, "resume=true") == 2
    assert "have changed since the training began" in capsys.readouterr().err
    write_csv(folder, OLD)
    assert fit(path, folder / "run", *words, "resume=true") == 0


EVALUATION = ["task=evaluate", 'evaluate.methods=["saliency", "random"]', "evaluate.baseline=saliency"]
EVALUATION += ["evaluate.metrics=[localisation]", "evaluate.probed=1", "evaluate.pictures=0", "evaluate.resamples=50"]
BOXES = [[0, 0, 20, 20], [10, 10, 20, 20], None]


def write_boxes(folder: Path, boxes: list[list[int] | None]) -> Path:
    path = folder / "pairs.jsonl"
    rows = [{"image": i, "caption": c, "box": box} for (i, c), box in zip(OLD, boxes, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def scored(run: Path) -> pd.DataFrame:
    table: pd.DataFrame = load_scores(run)
    return table[table["measure"] != "seconds"].reset_index(drop=True)


@pytest.mark.slow
def test_an_evaluation_does_pairs_with_other_boxes_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*EVALUATION, "data.box_column=box"]
    path = write_boxes(folder, BOXES)
    assert fit(path, folder / "run", *words) == 0
    capsys.readouterr()
    assert fit(path, folder / "run", *words, "resume=true") == 0
    assert "in the source" not in capsys.readouterr().out
    write_boxes(folder, [BOXES[0], [40, 40, 10, 10], [1, 1, 9, 9]])  # one is another, and one is new
    assert fit(path, folder / "run", *words, "resume=true") == 0
    assert "pairs: 2 changed in the source since their rows were written, and are done again" in capsys.readouterr().out
    assert fit(path, folder / "fresh", *words) == 0
    pd.testing.assert_frame_equal(scored(folder / "run"), scored(folder / "fresh"))
    write_boxes(folder, [None, [40, 40, 10, 10], [1, 1, 9, 9]])
    capsys.readouterr()
    assert fit(path, folder / "run", *words, "resume=true") == 0
    assert "pairs: 1 changed in the source" in capsys.readouterr().out


@pytest.mark.slow
def test_an_evaluation_of_an_earlier_version_keeps_its_rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*EVALUATION, "data.box_column=box"]
    path = write_boxes(folder, BOXES)
    assert fit(path, folder / "run", *words) == 0
    (part,) = (folder / "run" / "scores").iterdir()
    table = pq.read_table(part)
    old = [value[:33] for value in table["fingerprint"].to_pylist()]
    assert [len(value) for value in table["fingerprint"].to_pylist()] == [50, 50, 33]  # no third part without truth
    place = table.column_names.index("fingerprint")
    pq.write_table(table.set_column(place, table.schema.field("fingerprint"), [old]), part)
    write_boxes(folder, [BOXES[0], [40, 40, 10, 10], None])
    capsys.readouterr()
    assert fit(path, folder / "run", *words, "resume=true") == 0
    assert "in the source" not in capsys.readouterr().out


@pytest.mark.slow
def test_an_attribution_does_not_depend_on_boxes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data.box_column=box", "method.name=saliency"]
    path = write_boxes(folder, BOXES)
    assert fit(path, folder / "run", *words) == 0
    write_boxes(folder, [BOXES[0], [40, 40, 10, 10], [1, 1, 9, 9]])
    capsys.readouterr()
    assert fit(path, folder / "run", *words, "resume=true") == 0
    assert "in the source" not in capsys.readouterr().out
