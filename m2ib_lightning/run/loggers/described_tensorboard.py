"""TensorBoard's logger, with the unit of each curve in its description."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_SCALAR, Summary, SummaryMetadata
from typing_extensions import override

from m2ib_lightning.run.loggers.curve_tags import description_of


class DescribedTensorBoard(TensorBoardLogger):
    """Lightning's TensorBoard logger. The first value of a tag carries its description, as TensorBoard reads it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._described: set[str] = set()

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        first = {tag: text for tag in metrics if tag not in self._described and (text := description_of(tag))}
        for tag, text in first.items():
            plugin = SummaryMetadata.PluginData(plugin_name="scalars")
            metadata = SummaryMetadata(summary_description=text, data_class=DATA_CLASS_SCALAR, plugin_data=plugin)
            value = Summary.Value(tag=tag, simple_value=float(metrics[tag]), metadata=metadata)
            self.experiment._get_file_writer().add_summary(Summary(value=[value]), step)
        self._described |= first.keys()
        super().log_metrics({tag: value for tag, value in metrics.items() if tag not in first}, step)
