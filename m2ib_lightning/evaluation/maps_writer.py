"""Writer of the maps of all methods of the first pairs, for the page of a comparison."""

from __future__ import annotations

from typing import Any

from lightning import Trainer
from typing_extensions import override

from m2ib_lightning.evaluation.evaluator import PairScores
from m2ib_lightning.results.marked_part import highest_point_is_on_it, outline_runs
from m2ib_lightning.results.row_form import row_of
from m2ib_lightning.run.callbacks.results_callback import ResultsCallback
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.run.pages.page_rows import page_record
from m2ib_lightning.run.pages.panels import panel_of
from m2ib_lightning.run.pages.side_files import append_facts, save_thumbnail, thumbnail_name


class MapsWriter(ResultsCallback):
    """Callback that keeps the maps of all methods, the thumbnail and the marked part of each drawn pair in ``report/``.

    Args:
        run: the run directory.
        launch: number of the launch.
        count: number of the source's first pairs that are drawn.
    """

    def __init__(self, run: RunDirectory, launch: int, count: int) -> None:
        self.run = run
        self.launch = launch
        self.count = count

    @override
    def on_results(self, trainer: Trainer, results: list[PairScores]) -> None:
        shown = [r for r in results if r.error is None and r.maps and r.pair.position < self.count]
        for result in shown:
            assert result.pair.picture is not None, "its maps are drawn"
            self.run.thumbnails.mkdir(exist_ok=True)
            save_thumbnail(result.pair.picture, self.run.thumbnails / thumbnail_name(result.pair.id, result.pair.key))
        append_facts(self.run, self.launch, trainer.global_rank, map(_facts, shown))


def _facts(result: PairScores) -> dict[str, Any]:
    panels = [
        panel_of(name, page_record(row_of(each)), unit=each.unit, hit=highest_point_is_on_it(each))
        for name, each in result.maps.items()
    ]
    facts: dict[str, Any] = {"key": result.pair.key, "size": list(result.pair.image_size), "panels": panels}
    runs = outline_runs(next(iter(result.maps.values())))
    return facts | ({} if runs is None else {"truth": runs, "cut": round(result.pair.share_cut_away or 0.0, 4)})
