"""Table rows of results, and results from rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.pairs.pair import Pair
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.drawing import facts_of
from m2ib_lightning.run.parts import SCHEMA, to_record_batch
from tests.results.test_drawing import make_result


def assert_same_row(row: dict[str, Any], other: dict[str, Any]) -> None:
    """Two rows are equal as the table stores them."""
    assert to_record_batch([row]).equals(to_record_batch([other]))


@pytest.mark.parametrize("drop", [(), ("text",), ("curves",)])
def test_a_result_survives_its_row(drop: tuple[str, ...]) -> None:
    result = make_result().drawn_as("x.png")
    if "text" in drop:
        result = replace(result, text=None)
    if "curves" in drop:
        assert result.image is not None
        result = replace(result, image=replace(result.image, loss=None, information=None, similarity=None), text=None)
    back = Attribution.from_row(result.to_row())
    assert_same_row(back.to_row(), result.to_row())
    np.testing.assert_array_equal(back.image_heatmap, result.image_heatmap)
    np.testing.assert_array_equal(back.saliency_at(30, 20), result.saliency_at(30, 20))
    assert back.unit == ("" if "curves" in drop else "nats")
    assert back.final_loss == result.final_loss
    assert (back.text is None) == bool(drop)
    assert (back.tokens, back.pair.token_offsets) == (result.tokens, result.pair.token_offsets)
    assert back.pair.picture is None
    assert back._repr_html_()


def test_a_failed_row_keeps_its_error() -> None:
    row = Attribution(Pair("t:1", "b", "b.png", None), error="no caption").to_row()
    back = Attribution.from_row(dict.fromkeys(SCHEMA.names) | row)
    assert (back.error, back.pair.error, back.pair.caption, back.image) == ("no caption", "no caption", None, None)
    assert_same_row(back.to_row(), row)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": None}, "has 'key' and 'id', this one has no 'key': load that column too"),
        (
            {"image_saliency": None},
            "the row of 't:0' has no error and no 'image_saliency': load it with image_saliency,",
        ),
        ({"crop": None}, "the row of 't:0' has no error and no 'crop'"),
        ({"grid_width": 5}, "the row of 't:0' must have 4 x 5 patches, got 16: it is damaged"),
    ],
)
def test_missing_columns_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(M2IBError, match=message):
        Attribution.from_row(make_result().to_row() | change)


def test_a_map_along_a_path_names_its_unit() -> None:
    result = replace(make_result(), image_unit="log(1 + nats)^4")
    patches, tokens = facts_of(result)[1:3]
    assert patches.endswith(" log(1 + nats)^4")
    assert tokens.endswith(" nats")
