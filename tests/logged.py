"""What a run has logged, read back from its files."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def events_of(run: Path) -> EventAccumulator:
    """The events that TensorBoard reads of a run, all of them."""
    kinds = ("scalars", "images", "histograms", "tensors")
    return EventAccumulator(str(run / "tensorboard"), size_guidance=dict.fromkeys(kinds, 0)).Reload()


def scalars_of(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The steps and values of each curve that TensorBoard reads."""
    events = events_of(run)
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def csv_of(run: Path, start: str = "0001") -> dict[str, list[tuple[int, float]]]:
    """The steps and values of each column of the CSV file of a start of a run."""
    values: dict[str, list[tuple[int, float]]] = {}
    with (run / "csv" / start / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            step = int(row.pop("step"))
            for tag, text in row.items():
                if text:
                    values.setdefault(tag, []).append((step, float(text)))
    return values


def hyperparameters_of(run: Path) -> dict[str, Any]:
    """The settings on TensorBoard's page *HParams*."""
    from tensorboard.plugins.hparams import metadata

    content = events_of(run).PluginTagToContent("hparams")
    (start,) = (value for tag, value in content.items() if tag == metadata.SESSION_START_INFO_TAG)
    info = metadata.parse_session_start_info_plugin_data(start)
    return {
        name: getattr(value, value.WhichOneof("kind"))
        for name, value in info.hparams.items()
        if value.WhichOneof("kind")
    }
