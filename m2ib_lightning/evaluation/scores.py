"""The score table of ``task=evaluate``, one row per pair, and a reader that returns it in long form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from m2ib_lightning.evaluation.cosine_curves import CURVES_FIELD
from m2ib_lightning.evaluation.evaluator import PairScores
from m2ib_lightning.run.counts import Counts
from m2ib_lightning.run.table import source_order, tables

SCORES_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("image", pa.string()),
        pa.field("caption", pa.string()),
        pa.field(
            "scores",
            pa.list_(
                pa.struct(
                    [
                        pa.field("method", pa.string()),
                        pa.field("seed", pa.int64()),
                        pa.field("measure", pa.string()),
                        pa.field("value", pa.float64()),  # NaN where the score is not defined
                    ]
                )
            ),
        ),
        pa.field("failures", pa.list_(pa.string())),  # "<method>: why it failed on this pair"
        pa.field("mask_resized", pa.bool_()),  # null where the source has no mask
        pa.field("heatmap", pa.string()),  # file in heatmaps/, or null
        pa.field("error", pa.string()),  # null where the pair was explained
        pa.field("fingerprint", pa.string()),  # of the pair in the source
        pa.field("sentence", pa.string()),  # that the caption is a phrase of, or null
        CURVES_FIELD,
    ]
)


def count(results: list[PairScores], seconds: float) -> Counts:
    """Count the done, failed and drawn pairs of a part of the table, and their marked parts, for its footer."""
    total = Counts(seconds=seconds)
    for result in results:
        done = result.error is None
        total += Counts(done=int(done), failed=int(not done), drawn=int(result.heatmap is not None))
        total += Counts.of_truth(result.pair) if done else Counts()
    return total


def load_scores(run: str | Path) -> Any:
    """Load the scores of a run as a ``pandas.DataFrame``, one score per row, in source order.

    The columns are key, image, method, seed, measure and value.

    Args:
        run: path of the run directory.
    """
    import pandas as pd

    parts = list(tables(Path(run).expanduser() / "scores", ["key", "image", "scores"], SCORES_SCHEMA))
    frames = []
    for part in parts:
        for chunk in part.combine_chunks().to_batches():
            parents = pc.list_parent_indices(chunk["scores"])
            flat = pc.list_flatten(chunk["scores"])
            columns = {name: pc.struct_field(flat, name) for name in ("method", "seed", "measure", "value")}
            pair = {name: chunk[name].take(parents) for name in ("key", "image")}
            frames.append(pa.table({**pair, **columns}).to_pandas())
    names = ["key", "image", "method", "seed", "measure", "value"]
    scores = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=names)
    order = {key: rank for rank, key in enumerate(sorted(scores["key"].unique(), key=source_order))}
    return scores.iloc[np.argsort(scores["key"].map(order).to_numpy(), kind="stable")].reset_index(drop=True)
