"""Work beside the loop: steps follow their jobs, in order, and errors reach the caller."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from m2ib_lightning.run.background import BackgroundWork
from m2ib_lightning.run.callbacks import HeatmapWriter, TableWriter
from m2ib_lightning.run.journal import journals, read_journal
from tests.results.test_drawing import make_result

TRAINER: Any = SimpleNamespace(global_rank=0)


def test_a_step_is_done_at_once_where_nothing_is_unfinished() -> None:
    done: list[str] = []
    BackgroundWork().then(lambda: done.append(threading.current_thread().name))
    assert done == [threading.current_thread().name]


def test_the_caller_does_not_wait_and_steps_follow_their_jobs_in_order() -> None:
    work, gate, done = BackgroundWork(threads=2), threading.Event(), list[str]()

    def job() -> None:
        gate.wait(20)
        done.append("job")

    work.submit(job)
    work.then(lambda: done.append("first"))
    work.then(lambda: done.append("second"))  # its own jobs are none, but the first step is unfinished
    assert done == []
    gate.set()
    work.drain()
    assert done == ["job", "first", "second"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("drawing", "writing"))]


def test_steps_are_bounded() -> None:
    work, gate, done = BackgroundWork(threads=1, steps=1), threading.Event(), list[int]()
    work.submit(lambda: (gate.wait(20), None)[1])
    work.then(lambda: done.append(0))
    threading.Timer(0.05, gate.set).start()
    work.then(lambda: done.append(1))  # waits for the first
    assert done[0] == 0
    work.drain()
    assert done == [0, 1]


def test_after_an_error_no_step_is_done_and_the_error_is_raised_once() -> None:
    work, done = BackgroundWork(), list[int]()

    def fail() -> None:
        raise OSError("no space")

    work.submit(fail)
    work.then(lambda: done.append(1))
    with pytest.raises(OSError, match="no space"):
        work.drain()
    with pytest.raises(OSError, match="no space"):
        work.then(lambda: done.append(2))
    work.drain()
    assert done == []


def test_a_row_is_written_after_its_picture_and_never_without_it(tmp_path: Path) -> None:
    gate, broken, work = threading.Event(), threading.Event(), BackgroundWork()

    def draw(result: Any) -> Image.Image:
        gate.wait(20)
        if broken.is_set():
            raise OSError("no space")
        return Image.new("RGB", (8, 8))

    heatmaps, table = HeatmapWriter(tmp_path, draw=draw, work=work), TableWriter(tmp_path, work=work)
    results: list[Any] = [make_result()]
    for write in (partial(heatmaps.on_results, TRAINER, results), partial(table.on_results, TRAINER, results)):
        write()
    assert results[0].heatmap.endswith(".png")
    assert list(tmp_path.iterdir()) == []  # neither the picture nor the row
    gate.set()
    work.drain()
    assert (tmp_path / results[0].heatmap).is_file()
    (journal,) = journals(tmp_path)
    assert read_journal(journal)[0]["heatmap"].to_pylist() == [results[0].heatmap]

    broken.set()
    results = [make_result("another caption")]
    heatmaps.on_results(TRAINER, results)
    table.on_results(TRAINER, results)
    with pytest.raises(OSError, match="no space"):
        heatmaps.finish(TRAINER)
    table.finish(TRAINER)
    (part,) = tmp_path.glob("*.parquet")
    assert pq.read_table(part).num_rows == 1


@pytest.mark.parametrize(("format", "kind"), [("jpeg", "JPEG"), ("webp", "WEBP"), ("png", "PNG")])
def test_the_name_says_the_format(format: str, kind: str, tmp_path: Path) -> None:
    writer, results = HeatmapWriter(tmp_path, format=format), [make_result()]
    writer.on_results(TRAINER, results)
    writer.finish(TRAINER)
    (path,) = tmp_path.iterdir()
    assert path.name == results[0].heatmap
    with Image.open(path) as picture:
        assert picture.format == kind
