"""Load pictures of four quadrants, each of which shows another object (``quadrant_sources``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typing_extensions import override

from m2ib_lightning.config import Config
from m2ib_lightning.datamodules.base import PairDataModule, loader_arguments, register_datamodule
from m2ib_lightning.datamodules.opening import check_open_timeout, open_in_time
from m2ib_lightning.datamodules.quadrant_sources import PICTURES, FolderQuadrants, SceneQuadrants
from m2ib_lightning.pairs.pair import PairSource
from m2ib_lightning.pairs.prepare import Preparer


class QuadrantsDataModule(PairDataModule):
    """Loads pictures of four quadrants: of scenes, or of the images of a folder.

    Args:
        preparer: the preparer of the model that reads the pairs.
        path: folder with a subfolder of images for each label; None for scenes.
        seed: seed of the draws.
        mentioned: number of objects that each caption names.
        truth: whether the pairs carry the ground truth that their maps are scored with.
        open_timeout: seconds that listing the folder may take.
        options: arguments of ``PairDataModule``.
    """

    def __init__(
        self,
        preparer: Preparer,
        path: str | None = None,
        *,
        seed: int = 0,
        mentioned: int = 1,
        truth: bool = False,
        open_timeout: float = 600.0,
        **options: Any,
    ) -> None:
        super().__init__(preparer, **options)
        check_open_timeout(open_timeout)
        self.path = path
        self.seed = seed
        self.mentioned = mentioned
        self.truth = truth
        self.open_timeout = open_timeout

    @override
    @classmethod
    def from_config(cls, config: Config, preparer: Preparer) -> QuadrantsDataModule:
        data = config.data
        return cls(
            preparer,
            data.path,
            seed=config.seed,
            mentioned=data.mentioned,
            truth=config.task == "evaluate",
            open_timeout=data.open_timeout,
            **loader_arguments(config),
        )

    @override
    def open_source(self) -> PairSource:
        count = max(PICTURES, self.limit or 0)
        if self.path is None:
            return SceneQuadrants(self.seed, count, self.mentioned, truth=self.truth)
        folder = Path(self.path).expanduser().resolve()  # the working directory may change
        return open_in_time(
            "quadrants",
            self.path,
            self.open_timeout,
            lambda: FolderQuadrants(
                folder, self.seed, count, self.mentioned, truth=self.truth, rules=self.preparer.images
            ),
        )


register_datamodule("quadrants", QuadrantsDataModule)
