"""Out of memory: less at a time, the same results; a pair that does not fit alone fails alone."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
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
from m2ib_lightning.m2ib.chunks import Chunk, halved, plan_chunks
from m2ib_lightning.m2ib.explainer import Explainer
from m2ib_lightning.m2ib.optimise import Problem
from m2ib_lightning.m2ib.out_of_memory import is_out_of_memory
from m2ib_lightning.models import LoadedModel
from m2ib_lightning.pairs.pair import Pair, PairBatch
from m2ib_lightning.results.attribution import Attribution
from tests.conftest import assert_same_result, relative_difference
from tests.folders import save_clip_folder
from tests.m2ib.test_invariants import LENGTHS, assert_unchanged, make_explainer, snapshot
from tests.run.test_module import SETTINGS as MODULE_SETTINGS
from tests.run.test_module import Collector
from tests.tiny import FAMILIES, make_batch, make_model, make_pairs

PATCHES = 17
"""Tokens of a picture, the first of them the class; SigLIP has one less."""
LONG = max(LENGTHS) + 2
"""Tokens of the longest caption, with BOS and EOS. No other has as many."""

pytestmark = pytest.mark.filterwarnings("ignore:out of memory")


class Memory:
    """Runs out for chunks that are ``too_large``, once half of their work is done: in the loop alone, not before it.

    Args:
        monkeypatch: undoes it.
        too_large: chunks that do not fit.
        late: it runs out in the backward pass, where there is one.
        error: what is raised.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        too_large: Callable[[Chunk], bool],
        *,
        late: bool = False,
        error: type[Exception] = torch.cuda.OutOfMemoryError,
    ) -> None:
        self.failed: list[Chunk] = []
        self.worked: list[Chunk] = []
        own = Problem._similarity

        def similarity(problem: Problem, chunk: Chunk, gates: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
            result = own(problem, chunk, gates, noise)
            if not too_large(chunk):
                self.worked.append(chunk)
            elif late and result.requires_grad:
                result.register_hook(lambda gradient: fail(chunk))
            else:
                fail(chunk)
            return result

        def fail(chunk: Chunk) -> None:
            self.failed.append(chunk)
            raise error("CUDA out of memory. Tried to allocate 2.00 GiB.")

        monkeypatch.setattr(Problem, "_similarity", similarity)


def small_clean_pass(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """The prefix fails for more than ``most`` pairs; notes for how many it was run."""
    sizes: list[int] = []
    own = Tower.prefix

    def prefix(tower: Tower, inputs: Any, layer: int) -> Hidden:
        hidden = own(tower, inputs, layer)
        sizes.append(len(hidden.z))
        if len(hidden.z) > most:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")
        return hidden

    monkeypatch.setattr(Tower, "prefix", prefix)
    return sizes


def make_double(model: Any) -> Explainer:
    made = make_explainer(model)
    made.bottlenecks.to(torch.float64)
    return made


def run(model: Any, batch: PairBatch | None = None) -> list[Attribution]:
    made = make_double(model)
    with made.at_work():
        return made(batch or make_batch(model, make_pairs(model, LENGTHS)), made.optimizer())


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
def test_out_of_memory_is_told_from_other_errors(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_torchs_own_errors_are_known() -> None:
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
    while (smaller := halved(chunks)) is not None:
        new = plan_chunks(lengths, draws, smaller)
        assert new != chunks
        assert (halved(new) or 0) <= smaller // 2
        chunks = new
    assert len(chunks) == draws * len(lengths)


@pytest.mark.parametrize("late", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("bound", [PATCHES, 20, 3 * PATCHES, 100, 200])
@pytest.mark.parametrize("family", FAMILIES)
def test_results_are_the_same_with_whatever_fits(
    family: str, bound: int, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(family)
    expected = run(model)
    before = snapshot(model)
    memory = Memory(monkeypatch, lambda chunk: chunk.rows > bound, late=late)
    assert_same(run(model), expected)
    assert_unchanged(model, before)
    rows = [chunk.rows for chunk in memory.failed]
    assert len(rows) == len(set(rows)) >= 1, "no attempt is repeated as it was"


def test_no_gradient_or_state_is_left_over(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("clip")
    made = make_double(model)
    optimizer = made.optimizer()
    Memory(monkeypatch, lambda chunk: True)
    with made.at_work():
        made(make_batch(model, make_pairs(model, LENGTHS)), optimizer)
    assert not optimizer.state
    assert all(alpha.grad is None and alpha.numel() == 0 for alpha in made.bottlenecks.parameters())


def test_a_failed_attempt_is_freed_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("clip")
    kept: list[StorageWeakRef] = []
    alive: list[bool] = []
    own = Problem._similarity

    def similarity(problem: Problem, chunk: Chunk, gates: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        alive.extend(not ref.expired() for ref in kept)
        kept.clear()
        result = own(problem, chunk, gates, noise)
        if chunk.rows > 100:
            kept.extend(
                StorageWeakRef(t.untyped_storage()) for t in (result, gates, problem.whitened, problem.hidden.z)
            )
            raise torch.cuda.OutOfMemoryError
        return result

    monkeypatch.setattr(Problem, "_similarity", similarity)
    run(model)
    assert alive == 2 * 4 * [False]  # 357 rows, 178, then 89 fit


def test_a_size_that_works_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("clip")
    memory = Memory(monkeypatch, lambda chunk: chunk.rows > 100)
    made = make_double(model)
    optimizer, batch = made.optimizer(), make_batch(model, make_pairs(model, LENGTHS))
    with made.at_work():
        made(batch, optimizer)
        assert [chunk.rows for chunk in memory.failed] == [357, 153]
        made(batch, optimizer)
        assert len(memory.failed) == 2
    with made.at_work():  # another run
        made(batch, optimizer)
        assert len(memory.failed) == 4


def test_a_pair_that_never_fits_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("clip")
    expected = run(model)
    Memory(monkeypatch, lambda chunk: chunk.tokens == LONG)
    results = run(model)
    assert [result.pair.id for result in results] == [result.pair.id for result in expected]
    (failed,) = [result for result in results if result.error is not None]
    assert failed is results[LENGTHS.index(max(LENGTHS))]
    assert failed.error is not None
    assert "out of memory, with this pair alone" in failed.error
    assert "use a smaller model, a lower precision" in failed.error
    assert failed.image is None
    good = [index for index, result in enumerate(results) if result is not failed]
    assert_same([results[k] for k in good], [expected[k] for k in good])


def test_what_single_pairs_needed_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("clip")
    large = sorted(LENGTHS)[-2] + 2
    memory = Memory(monkeypatch, lambda chunk: chunk.tokens == LONG or (chunk.tokens == large and chunk.sequences > 1))
    made = make_double(model)
    optimizer, pairs = made.optimizer(), make_pairs(model, LENGTHS)
    with made.at_work():
        results = made(make_batch(model, pairs[:4]), optimizer)  # 5, 11, 3 and 16 tokens
        assert [result.error is None for result in results] == [True, True, True, False]
        assert Chunk(slice(0, 1), slice(0, 3), large) in memory.failed, "alone, it starts with all draws"
        memory.worked.clear()
        made(make_batch(model, pairs[4:]), optimizer)
    assert all(chunk.pairs == slice(0, 3) for chunk in memory.worked), "the next batch goes in one chunk"


def test_when_nothing_fits_every_pair_fails_and_the_source_order_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("clip")
    plain = make_batch(model, make_pairs(model, [3, 5, 4]))
    unread = Pair(key="test:unread", id="unread", image="", caption=None, error="it can't be read")
    order = ["test:2", "test:unread", "test:0", "test:1"]
    batch = PairBatch(plain.pairs, [unread], plain.inputs["image"], plain.inputs["text"], order)
    memory = Memory(monkeypatch, lambda chunk: chunk.rows >= PATCHES)
    results = run(model, batch)
    assert [result.pair.key for result in results] == order
    assert results[1].error == "it can't be read"
    assert all("out of memory" in str(results[k].error) for k in (0, 2, 3))
    assert memory.worked == []


def test_the_clean_pass_goes_by_single_pairs_at_once_and_the_chunks_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("clip")
    expected = run(model)
    sizes = small_clean_pass(monkeypatch, 3)
    memory = Memory(monkeypatch, lambda chunk: False)
    assert_same(run(model), expected)
    assert sizes == [len(LENGTHS)] + 2 * len(LENGTHS) * [1]
    assert all(chunk.draws == slice(0, 3) for chunk in memory.worked)


@pytest.mark.parametrize(("place", "name"), [(Problem, "evaluate"), (torch.optim.Adam, "step")])
def test_a_batch_that_does_not_fit_by_single_draws_either(
    place: type, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where what grows with the pairs of a batch is too much: their gates, or Adam's state, once half made."""
    model = make_model("clip")
    expected = run(model)
    made = make_double(model)
    optimizer = made.optimizer()
    own = getattr(place, name)

    def fails(*arguments: Any) -> Any:
        result = own(*arguments)
        if max(len(alpha) for alpha in made.bottlenecks.parameters()) > 1:
            raise MemoryError
        return result

    monkeypatch.setattr(place, name, fails)
    with made.at_work():
        results = made(make_batch(model, make_pairs(model, LENGTHS)), optimizer)
    assert_same(results, expected)


@pytest.mark.parametrize("single", [False, True], ids=["halved", "one by one"])
def test_targets_in_place_of_captions_stay_with_their_images(single: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("clip")
    images = make_batch(model, make_pairs(model, LENGTHS)).inputs["image"]
    pairs = [Pair(key=str(k), id=str(k), image="", caption=None) for k in range(len(LENGTHS))]
    targets = torch.randn(len(LENGTHS), model.config.projection_dim, generator=torch.Generator().manual_seed(2))
    batch = PairBatch(pairs, [], images, {}, targets=targets.double())
    expected = run(model, batch)
    if single:
        small_clean_pass(monkeypatch, 1)
    memory = Memory(monkeypatch, lambda chunk: chunk.rows > 40)
    results = run(model, batch)
    assert memory.failed
    for a, b in zip(results, expected, strict=True):
        assert a.image is not None
        assert b.image is not None
        assert abs(a.similarity - b.similarity) < 1e-9
        assert relative_difference(a.image.saliency, b.image.saliency) < 1e-9
    assert len({result.similarity for result in results}) == len(LENGTHS)


@pytest.mark.parametrize("error", [RuntimeError, M2IBError, ValueError])
def test_other_errors_pass_through_at_once(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("clip")
    before = snapshot(model)
    calls = []

    def similarity(problem: Problem, *arguments: Any) -> torch.Tensor:
        calls.append(1)
        raise error("something else")

    monkeypatch.setattr(Problem, "_similarity", similarity)
    with pytest.raises(error, match="something else"):
        run(model)
    assert len(calls) == 1
    assert_unchanged(model, before)


def test_the_user_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("clip")
    Memory(monkeypatch, lambda chunk: chunk.tokens == LONG or chunk.rows > 40)
    made = make_double(model)
    with warnings.catch_warnings(record=True) as caught, made.at_work():
        warnings.simplefilter("always")
        for _ in range(2):
            made(make_batch(model, make_pairs(model, LENGTHS)), made.optimizer())
    (told,) = [str(warning.message) for warning in caught if "memory" in str(warning.message)]
    assert "the batch is repeated with less at a time" in told
    assert "Results do not change" in told


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


@pytest.mark.parametrize("late", [False, True], ids=["forward", "backward"])
def test_under_a_trainer(loaded: LoadedModel, late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    _, expected = fit(loaded)
    before = snapshot(loaded.encoder.model)
    memory = Memory(monkeypatch, lambda chunk: chunk.rows > 20, late=late)
    module, collector = fit(loaded)
    assert memory.failed
    assert_same(collector.results, expected.results)
    assert collector.finished == 1
    assert collector.global_steps == [3, 6, 9], "an attempt that failed in its first step is not counted"
    assert_unchanged(loaded.encoder.model, before)
    assert all(parameter.grad is None for parameter in module.parameters())


def test_explain_raises_for_a_single_pair(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    source: Any = ScenesDataModule(loaded.preparer, seed=1).source
    Memory(monkeypatch, lambda chunk: True)
    with pytest.raises(M2IBError, match="out of memory, with this pair alone"):
        explain(source[0].image, str(source[0].caption), model=loaded)


REAL = """
import resource, sys, warnings
import torch
from m2ib_lightning.m2ib.explainer import Explainer, resolve
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.encoder.towers import Encoder
from tests.tiny import make_batch, make_model, make_pairs

def used():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()

torch.set_num_threads(1)
model = make_model("clip", width=240, image=96, patch=8)
encoder = Encoder(model)
pairs = make_pairs(model, [3, 5, 4, 6])

def run(pairs, max_rows):
    settings = {"steps": 2, "noise_samples": 10, "max_rows": max_rows, "image": {"layer": 0}}
    made = Explainer(encoder, resolve(BottleneckSettings().override(settings), encoder))
    with made.at_work():
        results = made(make_batch(model, pairs), made.optimizer())
    return results

expected = run(pairs, 200)
limit = used() + 2**20 * int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
with warnings.catch_warnings(record=True) as caught:
    results = run(pairs, 10**9)
for a, b in zip(results, expected, strict=True):
    assert a.error is None, a.error
    assert abs(a.image.saliency - b.image.saliency).max() <= 1e-5 * b.image.saliency.max()
print("repeated" if any("out of memory" in str(w.message) for w in caught) else "fitted")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are as Linux has them")
def test_memory_that_really_runs_out() -> None:
    command = [sys.executable, "-c", REAL, "40"]  # the whole chunk needs some 120 MB more
    child = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert child.stdout.split() == ["repeated"], child.stderr
