"""Chunks bound the memory and change no result."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from m2ib_lightning.encoder.towers import Encoder
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.m2ib.chunks import default_max_rows, plan_chunks
from m2ib_lightning.m2ib.settings import BottleneckSettings
from tests.equality import assert_same_result
from tests.m2ib.test_invariants import LENGTHS, SETTINGS, make_explainer
from tests.tiny import FAMILIES, make_batch, make_model, make_pairs


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    draws=st.integers(1, 12),
    max_rows=st.integers(1, 600),
)
@settings(max_examples=50)
def test_every_draw_of_every_pair_is_in_one_chunk_that_is_not_too_large(
    lengths: list[int], draws: int, max_rows: int
) -> None:
    chunks = plan_chunks(lengths, draws, max_rows)
    seen = [
        (pair, draw)
        for chunk in chunks
        for pair in range(chunk.pairs.start, chunk.pairs.stop)
        for draw in range(chunk.draws.start, chunk.draws.stop)
    ]
    assert sorted(seen) == [(pair, draw) for pair in range(len(lengths)) for draw in range(draws)]
    assert len(seen) == len(set(seen))
    for chunk in chunks:
        pairs, count = chunk.pairs.stop - chunk.pairs.start, chunk.draws.stop - chunk.draws.start
        assert chunk.tokens == max(lengths[chunk.pairs])
        assert pairs * count * chunk.tokens <= max_rows or (pairs, count) == (1, 1)


@pytest.mark.parametrize(
    ("family", "dtype", "tolerance"),
    [
        ("clip", torch.float64, 1e-9),
        pytest.param("clip", torch.float32, 1e-5, marks=pytest.mark.slow),
        pytest.param("clip-legacy", torch.float64, 1e-9, marks=pytest.mark.slow),
        pytest.param("clip-legacy", torch.float32, 1e-5, marks=pytest.mark.slow),
        pytest.param("siglip", torch.float64, 1e-9, marks=pytest.mark.slow),
        pytest.param("siglip", torch.float32, 1e-5, marks=pytest.mark.slow),
    ],
)
def test_no_result_depends_on_the_size_of_a_chunk(family: str, dtype: torch.dtype, tolerance: float) -> None:
    model = make_model(family)
    batch = make_batch(model, make_pairs(model, LENGTHS))

    def explain(max_rows: int | None) -> list[Any]:
        explainer = make_explainer(model, SETTINGS | {"max_rows": max_rows})
        explainer.bottlenecks.to(dtype)
        with explainer.at_work():
            problems, _ = explainer.problems(batch)
            sizes.append(len(problems["image"].chunks))
            return explainer(batch, explainer.optimizer())

    sizes: list[int] = []
    in_one_chunk = explain(10**6)
    for max_rows in (None, 1, 40, 150):
        for a, b in zip(explain(max_rows), in_one_chunk, strict=True):
            assert_same_result(a, b, tolerance)
    assert sizes[0] == 1
    assert sizes[2] == 3 * len(LENGTHS)  # one row at most: every draw of every pair alone


def test_max_rows_bounds_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("clip")
    explainer = make_explainer(model, SETTINGS | {"max_rows": 40})
    seen = []
    with explainer.at_work():
        problems, _ = explainer.problems(make_batch(model, make_pairs(model, LENGTHS)))
        for problem in problems.values():
            run = problem.suffix

            def watched(hidden: torch.Tensor, pooled: Any, run: Any = run) -> Any:
                seen.append(hidden.shape)
                return run(hidden, pooled)

            problem.suffix = watched
            problem.evaluate(0, torch.Tensor.backward)
    assert max(shape[0] * shape[1] for shape in seen) <= 40


def test_on_a_gpu_half_of_the_free_memory_bounds_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = Encoder(make_model("clip", width=64)).towers["text"]
    for free, reserved, allocated in ((2**40, 0, 0), (2**27, 0, 0), (0, 2**27, 0), (2**26, 2**27, 2**26), (0, 0, 0)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 2**40))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device, held=reserved: held)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device, used=allocated: used)
        rows = default_max_rows(tower, 0, torch.float32, torch.device("cuda"))
        available = free + reserved - allocated
        bytes_each = 20 * 64 * 4 * 2  # two blocks after the cut
        assert rows == 2**18 if available == 2**40 else rows == max(2048, available // 2 // bytes_each)


@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_an_invalid_bound_is_refused(value: Any) -> None:
    with pytest.raises(M2IBError, match="max_rows must be a whole number of at least 1, got"):
        BottleneckSettings().override({"max_rows": value})


class Waits(TorchDispatchMode):
    """Records the operations that wait for the device: reads of numbers, and shapes that depend on numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(
            name in str(func) for name in ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero")
        ):
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_in_a_step_waits_for_the_device(family: str) -> None:
    model = make_model(family)
    explainer = make_explainer(model, SETTINGS | {"max_rows": 60})
    with explainer.at_work():
        problems, _ = explainer.problems(make_batch(model, make_pairs(model, LENGTHS)))
        with Waits() as waits:
            for problem in problems.values():
                problem.evaluate(0, torch.Tensor.backward)
        assert waits.seen == []
        with Waits() as waits:
            problem.whitened.sum().item()  # the test can fail
    assert waits.seen == ["aten._local_scalar_dense.default"]


def test_the_last_step_computes_no_gradient() -> None:
    model = make_model("clip")
    explainer = make_explainer(model, SETTINGS | {"steps": 1})
    calls: list[torch.Tensor] = []
    with explainer.at_work():
        explainer(make_batch(model, make_pairs(model, [3])), explainer.optimizer(), calls.append)
    assert calls == []
