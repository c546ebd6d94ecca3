"""Writer of thumbnails, and of the outlines of the ground truth, for the page of the run."""

from __future__ import annotations

from functools import partial
from typing import Any

from lightning import Trainer
from typing_extensions import override

from m2ib_lightning.results.marked_part import highest_point_is_on_it, outline_runs
from m2ib_lightning.run.background import BackgroundWork
from m2ib_lightning.run.callbacks.results_callback import ResultsCallback
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.run.pages.side_files import append_facts, save_thumbnail, thumbnail_name


class ThumbnailWriter(ResultsCallback):
    """Callback that writes a thumbnail of each pair whose picture was kept, and what its ground truth marks.

    The thumbnails are JPEG files in ``report/``. The marked part of each pair is a line of
    ``report/truth-<launch>-<rank>.jsonl``.

    Args:
        run: the run directory.
        launch: number of the launch.
        count: number of the source's first pairs that get a thumbnail; -1 for all. Ranks keep more pictures than that.
        work: the threads that write pictures; None for threads of its own.
    """

    def __init__(self, run: RunDirectory, launch: int = 1, count: int = -1, work: BackgroundWork | None = None) -> None:
        self.run = run
        self.launch = launch
        self.count = count
        self.work = work or BackgroundWork()

    @override
    def on_results(self, trainer: Trainer, results: list[Any]) -> None:
        facts = []
        for result in results:
            selected = self.count < 0 or result.pair.position < self.count
            if selected and result.error is None and result.pair.picture is not None:
                self.run.thumbnails.mkdir(exist_ok=True)
                name = thumbnail_name(result.pair.id, result.pair.key)
                self.work.submit(partial(save_thumbnail, result.pair.picture, self.run.thumbnails / name))
            if result.error is None and (runs := outline_runs(result)) is not None:
                known = {"key": result.pair.key, "truth": runs, "hit": highest_point_is_on_it(result)}
                facts.append(known | {"cut": round(result.pair.share_cut_away or 0.0, 4)})
        append_facts(self.run, self.launch, trainer.global_rank, facts)

    @override
    def finish(self, trainer: Trainer) -> None:
        self.work.drain()
