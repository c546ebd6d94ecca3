"""Out of memory: smaller chunks give the same results; a pair that does not fit alone fails alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning import Trainer
from torch.multiprocessing.reductions import StorageWeakRef

from m2ib_lightning import M2IBModule, ScenesDataModule, explain, load_model
from m2ib_lightning.encoder.towers import Hidden, Tower
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.m2ib.chunks import Chunk, plan_chunks, smaller_max_rows
from m2ib_lightning.m2ib.explainer import Explainer
from m2ib_lightning.m2ib.optimise import Problem
from m2ib_lightning.m2ib.out_of_memory import is_out_of_memory
from m2ib_lightning.models import LoadedModel
from m2ib_lightning.pairs.pair import Pair, PairBatch
from m2ib_lightning.results.attribution import Attribution
from tests.covering import covered_product
from tests.equality import assert_same_result, relative_difference
from tests.folders import save_clip_folder
from tests.m2ib.test_invariants import LENGTHS, assert_unchanged, make_explainer, snapshot
from tests.run.test_module import SETTINGS as MODULE_SETTINGS
from tests.run.test_module import Collector
from tests.tiny import FAMILIES, make_batch, make_model, make_pairs

PATCHES = 17
"""Tokens of a picture, including the class token, which SigLIP does not have."""
LONG = max(LENGTHS) + 2
"""Tokens of the longest caption, with BOS and EOS; no other caption has as many."""

pytestmark = pytest.mark.filterwarnings("ignore:out of memory")


class Memory:
    """Simulated memory that runs out in the loop, after the forward pass of a chunk that is too large.

    Args:
        monkeypatch: removes the simulation at the end of the test.
        too_large: whether a chunk does not fit.
        late: whether memory runs out in the backward pass, if there is one.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        too_large: Callable[[Chunk], bool],
        *,
        late: bool = False,
    ) -> None:
        self.failed: list[Chunk] = []
        self.worked: list[Chunk] = []
        original = Problem._similarity

        def similarity(problem: Problem, chunk: Chunk, *tensors: Any) -> torch.Tensor:
            result = original(problem, chunk, *tensors)
            if not too_large(chunk):
                self.worked.append(chunk)
            elif late and result.requires_grad:
                result.register_hook(lambda gradient: fail(chunk))
            else:
                fail(chunk)
            return result

        def fail(chunk: Chunk) -> None:
            self.failed.append(chunk)
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        monkeypatch.setattr(Problem, "_similarity", similarity)


def small_clean_pass(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """Make the prefix fail for more than ``most`` pairs; return the list of the sizes that it ran with."""
    sizes: list[int] = []
    original = Tower.prefix

    def prefix(tower: Tower, inputs: Any, layer: int) -> Hidden:
        hidden = original(tower, inputs, layer)
        sizes.append(len(hidden.z))
        if len(hidden.z) > most:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")
        return hidden

    monkeypatch.setattr(Tower, "prefix", prefix)
    return sizes


@cache
def model_and_results(family: str) -> tuple[Any, list[Attribution]]:
    """Make a model, which no test changes, and its results with enough memory."""
    model = make_model(family)
    return model, run(model)


@pytest.fixture
def clip() -> Any:
    return model_and_results("clip")[0]


@pytest.fixture
def clip_results() -> list[Attribution]:
    return model_and_results("clip")[1]


def make_double_explainer(model: Any) -> Explainer:
    explainer = make_explainer(model)
    explainer.bottlenecks.to(torch.float64)
    return explainer


def run(model: Any, batch: PairBatch | None = None) -> list[Attribution]:
    explainer = make_double_explainer(model)
    with explainer.at_work():
        return explainer(batch or make_batch(model, make_pairs(model, LENGTHS)), explainer.optimizer())


def assert_same(results: list[Attribution], expected: list[Attribution]) -> None:
    for a, b in zip(results, expected, strict=True):
        assert_same_result(a, b, 1e-9)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.cuda.OutOfMemoryError("whatever"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:72] DefaultCPUAllocator: not enough memory: you"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (M2IBError("out of memory"), False),
        (OSError("out of memory"), False),
        (KeyboardInterrupt("out of memory"), False),
    ],
)
def test_out_of_memory_is_distinguished_from_other_errors(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_torchs_own_error_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert is_out_of_memory(caught.value)


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    draws=st.integers(1, 12),
    max_rows=st.integers(1, 10**6),
)
def test_each_halving_changes_the_plan_and_the_last_plan_is_single_draws(
    lengths: list[int], draws: int, max_rows: int
) -> None:
    chunks = plan_chunks(lengths, draws, max_rows)
    while (smaller := smaller_max_rows(chunks)) is not None:
        new = plan_chunks(lengths, draws, smaller)
        assert new != chunks
        assert (smaller_max_rows(new) or 0) <= smaller // 2
        chunks = new
    assert len(chunks) == draws * len(lengths)


@pytest.mark.parametrize(
    ("bound", "family", "late"),
    [
        case if case.values[:2] == (20, "clip") else pytest.param(*case.values, marks=pytest.mark.slow)
        for case in covered_product([PATCHES, 20, 3 * PATCHES, 100, 200], FAMILIES, [False, True])
    ],
)
def test_results_do_not_depend_on_what_fits(
    bound: int, family: str, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, expected = model_and_results(family)
    before = snapshot(model)
    memory = Memory(monkeypatch, lambda chunk: chunk.rows > bound, late=late)
    assert_same(run(model), expected)
    assert_unchanged(model, before)
    rows = [chunk.rows for chunk in memory.failed]
    assert len(rows) == len(set(rows)) >= 1, "no attempt is repeated unchanged"


def test_no_gradient_or_state_is_left_over(clip: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    explainer = make_double_explainer(clip)
    optimizer = explainer.optimizer()
    Memory(monkeypatch, lambda chunk: True)
    with explainer.at_work():
        explainer(make_batch(clip, make_pairs(clip, LENGTHS)), optimizer)
    assert not optimizer.state
    assert all(alpha.grad is None and alpha.numel() == 0 for alpha in explainer.bottlenecks.parameters())


def test_a_failed_attempt_is_freed_before_the_next(clip: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    storages: list[StorageWeakRef] = []
    alive: list[bool] = []
    original = Problem._similarity

    def similarity(problem: Problem, chunk: Chunk, *tensors: Any) -> torch.Tensor:
        alive.extend(not ref.expired() for ref in storages)
        storages.clear()
        result = original(problem, chunk, *tensors)
        if chunk.rows > 100:
            storages.extend(
                StorageWeakRef(t.untyped_storage()) for t in (result, tensors[1], problem.whitened, problem.hidden.z)
            )
            raise torch.cuda.OutOfMemoryError
        return result

    monkeypatch.setattr(Problem, "_similarity", similarity)
    run(clip)
    assert alive == 2 * 4 * [False]  # 357 rows, 178, then 89 fit


def test_a_chunk_size_that_works_is_used_again(clip: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(monkeypatch, lambda chunk: chunk.rows > 100)
    explainer = make_double_explainer(clip)
    optimizer, batch = explainer.optimizer(), make_batch(clip, make_pairs(clip, LENGTHS))
    with explainer.at_work():
        explainer(batch, optimizer)
        assert [chunk.rows for chunk in memory.failed] == [357, 153]
        explainer(batch, optimizer)
        assert len(memory.failed) == 2
    with explainer.at_work():  # another run
        explainer(batch, optimizer)
        assert len(memory.failed) == 4


@pytest.mark.slow
def test_a_pair_that_never_fits_fails_alone(
    clip: Any, clip_results: list[Attribution], monkeypatch: pytest.MonkeyPatch
) -> None:
    Memory(monkeypatch, lambda chunk: chunk.tokens == LONG)
    results = run(clip)
    assert [result.pair.id for result in results] == [result.pair.id for result in clip_results]
    (failed,) = [result for result in results if result.error is not None]
    assert failed is results[LENGTHS.index(max(LENGTHS))]
    assert failed.error is not None
    assert "out of memory, with this pair alone" in failed.error
    assert "use a smaller model, a lower precision" in failed.error
    assert failed.image is None
    good = [index for index, result in enumerate(results) if result is not failed]
    assert_same([results[k] for k in good], [clip_results[k] for k in good])


@pytest.mark.slow
def test_the_chunk_size_of_single_pairs_is_not_used_again(clip: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    large = sorted(LENGTHS)[-2] + 2
    memory = Memory(monkeypatch, lambda chunk: chunk.tokens == LONG or (chunk.tokens == large and chunk.sequences > 1))
    explainer = make_double_explainer(clip)
    optimizer, pairs = explainer.optimizer(), make_pairs(clip, LENGTHS)
    with explainer.at_work():
        results = explainer(make_batch(clip, pairs[:4]), optimizer)  # 5, 11, 3 and 16 tokens
        assert [result.error is None for result in results] == [True, True, True, False]
        assert Chunk(slice(0, 1), slice(0, 3), large) in memory.failed, "alone, it starts with all draws"
        memory.worked.clear()
        explainer(make_batch(clip, pairs[4:]), optimizer)
    assert all(chunk.pairs == slice(0, 3) for chunk in memory.worked), "the next batch is one chunk"


def test_when_nothing_fits_every_pair_fails_and_the_source_order_stays(
    clip: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = make_batch(clip, make_pairs(clip, [3, 5, 4]))
    unread = Pair(key="test:unread", id="unread", image="", caption=None, error="it can't be read")
    order = ["test:2", "test:unread", "test:0", "test:1"]
    batch = PairBatch(plain.pairs, [unread], plain.inputs["image"], plain.inputs["text"], order)
    memory = Memory(monkeypatch, lambda chunk: chunk.rows >= PATCHES)
    results = run(clip, batch)
    assert [result.pair.key for result in results] == order
    assert results[1].error == "it can't be read"
    assert all("out of memory" in str(results[k].error) for k in (0, 2, 3))
    assert memory.worked == []


def test_a_clean_pass_that_does_not_fit_is_repeated_by_single_pairs_with_the_same_chunks(
    clip: Any, clip_results: list[Attribution], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = small_clean_pass(monkeypatch, 3)
    memory = Memory(monkeypatch, lambda chunk: False)
    assert_same(run(clip), clip_results)
    assert sizes == [2, 2] + [len(LENGTHS)] + 2 * len(LENGTHS) * [1]  # two pairs are compared with the model first
    assert all(chunk.draws == slice(0, 3) for chunk in memory.worked)


@pytest.mark.parametrize(
    ("place", "name"),
    [(Problem, "evaluate"), pytest.param(torch.optim.Adam, "step", marks=pytest.mark.slow)],
)
def test_a_batch_that_does_not_fit_even_by_single_draws(
    clip: Any, clip_results: list[Attribution], place: type, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gates and Adam's state grow with the number of pairs; here they run out when half made."""
    explainer = make_double_explainer(clip)
    optimizer = explainer.optimizer()
    original = getattr(place, name)

    def fails(*arguments: Any) -> Any:
        result = original(*arguments)
        if max(len(alpha) for alpha in explainer.bottlenecks.parameters()) > 1:
            raise MemoryError
        return result

    monkeypatch.setattr(place, name, fails)
    with explainer.at_work():
        results = explainer(make_batch(clip, make_pairs(clip, LENGTHS)), optimizer)
    assert_same(results, clip_results)


@pytest.mark.parametrize("single", [False, True], ids=["halved", "one by one"])
def test_targets_in_place_of_captions_stay_with_their_images(
    clip: Any, single: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = make_batch(clip, make_pairs(clip, LENGTHS)).inputs["image"]
    pairs = [Pair(key=str(k), id=str(k), image="", caption=None) for k in range(len(LENGTHS))]
    targets = torch.randn(len(LENGTHS), clip.config.projection_dim, generator=torch.Generator().manual_seed(2))
    batch = PairBatch(pairs, [], images, {}, targets=targets.double())
    expected = run(clip, batch)
    if single:
        small_clean_pass(monkeypatch, 1)
    memory = Memory(monkeypatch, lambda chunk: chunk.rows > 40)
    results = run(clip, batch)
    assert memory.failed
    for a, b in zip(results, expected, strict=True):
        assert a.image is not None
        assert b.image is not None
        assert abs(a.similarity - b.similarity) < 1e-9
        assert relative_difference(a.image.saliency, b.image.saliency) < 1e-9
    assert len({result.similarity for result in results}) == len(LENGTHS)


@pytest.mark.parametrize("error", [RuntimeError, M2IBError, ValueError])
def test_other_errors_pass_through_at_once(clip: Any, error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(clip)
    calls = []

    def similarity(problem: Problem, *arguments: Any) -> torch.Tensor:
        calls.append(1)
        raise error("something else")

    monkeypatch.setattr(Problem, "_similarity", similarity)
    with pytest.raises(error, match="something else"):
        run(clip)
    assert len(calls) == 1
    assert_unchanged(clip, before)


def test_the_user_is_warned_once(clip: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Memory(monkeypatch, lambda chunk: chunk.tokens == LONG or chunk.rows > 40)
    explainer = make_double_explainer(clip)
    with warnings.catch_warnings(record=True) as caught, explainer.at_work():
        warnings.simplefilter("always")
        for _ in range(2):
            explainer(make_batch(clip, make_pairs(clip, LENGTHS[:4])), explainer.optimizer())
    (message,) = [str(warning.message) for warning in caught if "memory" in str(warning.message)]
    assert "the batch is repeated with smaller chunks" in message
    assert "Results do not change" in message


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(str(save_clip_folder(tmp_path_factory.mktemp("clip"), max_tokens=32)))


def fit(model: LoadedModel) -> tuple[M2IBModule, Collector]:
    collector = Collector()
    module = M2IBModule(model, MODULE_SETTINGS, seed=5)
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        precision="64-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[collector],
    )
    trainer.fit(module, datamodule=ScenesDataModule(model.preparer, seed=1, limit=9, batch_size=4))
    return module, collector


@pytest.fixture(scope="module")
def fitted(loaded: LoadedModel) -> Collector:
    return fit(loaded)[1]


@pytest.mark.parametrize("late", [False, True], ids=["forward", "backward"])
def test_under_a_trainer(loaded: LoadedModel, fitted: Collector, late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(loaded.encoder.model)
    memory = Memory(monkeypatch, lambda chunk: chunk.rows > 20, late=late)
    module, collector = fit(loaded)
    assert memory.failed
    assert_same(collector.results, fitted.results)
    assert collector.finished == 1
    assert collector.global_steps == [3, 6, 9], "an attempt that fails in its first step is not counted"
    assert_unchanged(loaded.encoder.model, before)
    assert all(parameter.grad is None for parameter in module.parameters())


def test_explain_raises_for_a_single_pair(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    source: Any = ScenesDataModule(loaded.preparer, seed=1).source
    Memory(monkeypatch, lambda chunk: True)
    with pytest.raises(M2IBError, match="out of memory, with this pair alone"):
        explain(source[0].image, str(source[0].caption), model=loaded)
