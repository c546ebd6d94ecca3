"""The results after each step, for those who watch an optimisation."""

from __future__ import annotations

from typing import Any

import pytest

from m2ib_lightning.encoder.towers import Encoder
from m2ib_lightning.m2ib.explainer import Explainer, resolve
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.results.attribution import Attribution
from tests.equality import assert_same_result
from tests.tiny import make_batch, make_model, make_pairs


@pytest.mark.parametrize("path", [1, 2])
def test_the_results_after_a_step_are_those_of_a_run_that_ends_there(path: int) -> None:
    model: Any = make_model("clip")
    pairs = make_pairs(model, [3, 5])

    def explain(steps: int, seen: list[list[Attribution]] | None = None) -> list[Attribution]:
        encoder = Encoder(model)
        values = {"steps": steps, "noise_samples": 2, "path": path}
        explainer = Explainer(encoder, resolve(BottleneckSettings().override(values), encoder), seed=3)
        explainer.bottlenecks.double()
        explainer.on_step = None if seen is None else seen.append
        with explainer.at_work():
            return explainer(make_batch(model, pairs, ["a", "b"]), explainer.optimizer())

    seen: list[list[Attribution]] = []
    watched = explain(3, seen)
    assert len(seen) == 3
    for steps, results in enumerate(seen, start=1):
        for result, expected in zip(results, explain(steps), strict=True):
            assert_same_result(result, expected, 1e-12)
    for result, expected in zip(watched, explain(3), strict=True):
        assert_same_result(result, expected, 1e-12)
