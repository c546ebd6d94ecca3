"""The LightningModule under a real Trainer."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from PIL import Image

from m2ib_lightning import M2IBModule, ScenesDataModule, explain, load_model
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.methods import Context, make_method
from m2ib_lightning.models import LoadedModel
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.run.callbacks import ResultsCallback
from m2ib_lightning.run.method_module import MethodModule
from tests.equality import assert_same_result
from tests.folders import save_clip_folder
from tests.m2ib.test_invariants import assert_unchanged, snapshot

SETTINGS = BottleneckSettings().override({"steps": 3, "noise_samples": 2})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(str(save_clip_folder(tmp_path_factory.mktemp("clip"), max_tokens=32)))


class Collector(ResultsCallback):
    """Keeps the results of the module."""

    def __init__(self) -> None:
        self.results: list[Attribution] = []
        self.global_steps: list[int] = []
        self.finished = 0

    def on_results(self, trainer: Trainer, results: list[Attribution]) -> None:
        self.results += results
        self.global_steps.append(trainer.global_step)

    def finish(self, trainer: Trainer) -> None:
        self.finished += 1


def fit(
    model: LoadedModel,
    *callbacks: Callback,
    precision: Any = "32-true",
    batch_size: int = 4,
    compile: bool = False,
) -> M2IBModule:
    module = M2IBModule(model, SETTINGS, seed=5, compile=compile)
    fit_module(module, model, *callbacks, precision=precision, batch_size=batch_size)
    return module


def fit_module(
    module: LightningModule, model: LoadedModel, *callbacks: Callback, precision: Any = "32-true", batch_size: int = 4
) -> None:
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    trainer.fit(module, datamodule=ScenesDataModule(model.preparer, seed=1, limit=9, batch_size=batch_size))


def test_every_pair_is_explained_once_and_global_step_counts_inner_steps(model: LoadedModel) -> None:
    collector = Collector()
    before = snapshot(model.encoder.model)
    module = fit(model, collector)
    assert [result.pair.key for result in collector.results] == [f"scenes-1:{k}" for k in range(9)]
    assert collector.global_steps == [3, 6, 9]
    assert collector.finished == 1
    assert_unchanged(model.encoder.model, before)
    assert {name for name, _ in module.named_parameters()} == {"bottlenecks.image.alpha", "bottlenecks.text.alpha"}
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize(
    ("precision", "dtype", "tolerance"), [("32-true", torch.float32, 1e-5), ("64-true", torch.float64, 1e-9)]
)
def test_the_trainer_gives_what_explain_gives(
    model: LoadedModel, precision: str, dtype: torch.dtype, tolerance: float
) -> None:
    collector = Collector()
    fit(model, collector, precision=precision)
    source: Any = ScenesDataModule(model.preparer, seed=1).source
    raw = [source[index] for index in range(9)]
    expected = explain(
        [pair.image for pair in raw],
        [str(pair.caption) for pair in raw],
        model=LoadedModel(model.encoder, model.processor, SETTINGS),
        seed=5,
        dtype=dtype,
        batch_size=2,
    )
    for result, other in zip(collector.results, expected, strict=True):
        for tower in ("image", "text"):
            a, b = getattr(result, tower).saliency, getattr(other, tower).saliency
            assert a.dtype == (np.float64 if dtype == torch.float64 else np.float32)
            assert np.abs(a - b).max() / np.abs(b).max() < tolerance


def test_bf16_stays_close_and_keeps_the_alphas_in_float32(model: LoadedModel) -> None:
    exact, mixed = Collector(), Collector()
    fit(model, exact)
    module = fit(model, mixed, precision="bf16-mixed")
    assert all(parameter.dtype == torch.float32 for parameter in module.parameters())
    for a, b in zip(exact.results, mixed.results, strict=True):
        assert np.corrcoef(a.image_saliency.ravel(), b.image_saliency.ravel())[0, 1] > 0.98
        assert b.image is not None
        assert b.image.saliency.dtype == np.float32


def test_batch_size_does_not_matter(model: LoadedModel) -> None:
    small, large = Collector(), Collector()
    fit(model, small, batch_size=1, precision="64-true")
    fit(model, large, batch_size=9, precision="64-true")
    for a, b in zip(small.results, large.results, strict=True):
        assert_same_result(a, b, 1e-9)


@pytest.mark.slow
def test_a_compiled_loop_gives_the_same(model: LoadedModel) -> None:
    eager, compiled = Collector(), Collector()
    fit(model, eager)
    fit(model, compiled, compile=True)
    for a, b in zip(eager.results, compiled.results, strict=True):
        assert_same_result(a, b, 1e-4)


def test_a_failing_compiler_is_an_error_before_the_first_pair(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("no C++ compiler found")

    monkeypatch.setattr(torch, "compile", broken)
    before = snapshot(model.encoder.model)
    collector = Collector()
    with pytest.raises(M2IBError, match=r"no C\+\+ compiler found\): leave out model.compile=true"):
        fit(model, collector, compile=True)
    assert collector.results == []
    assert_unchanged(model.encoder.model, before)


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_the_model_is_returned_unchanged_after_a_failure(model: LoadedModel, failure: type[BaseException]) -> None:
    class Failing(ResultsCallback):
        def on_results(self, trainer: Trainer, results: list[Attribution]) -> None:
            raise failure("stop")

    model.encoder.model.train()
    before = snapshot(model.encoder.model)
    collector = Collector()
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises((RuntimeError, SystemExit)):
            fit(model, collector, Failing())
    finally:
        signal.signal(signal.SIGINT, handler)  # else Lightning ignores later signals
        model.encoder.model.eval()
    model.encoder.model.train()
    assert_unchanged(model.encoder.model, before)
    assert collector.finished == 1
    model.encoder.model.eval()


@pytest.mark.parametrize("fails", [False, True])
def test_a_method_module_returns_the_model_unchanged(
    model: LoadedModel, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = Collector()
    module = MethodModule(make_method("saliency", Context(model, SETTINGS)), {"method": "saliency"})
    before = snapshot(model.encoder.model)
    if not fails:
        fit_module(module, model, collector, precision="64-true")
        assert [result.error for result in collector.results] == [None] * 9
        assert collector.results[0].image_saliency.dtype == np.float64  # the method works in the Trainer's type
    else:
        monkeypatch.setattr(collector, "on_results", lambda *arguments: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            fit_module(module, model, collector)
    assert collector.finished == 1
    assert_unchanged(model.encoder.model, before)


def test_hyperparameters_are_plain_types(model: LoadedModel) -> None:
    module = M2IBModule(model, SETTINGS)

    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(plain(item) for item in value.values())
        return value is None or type(value) in (int, float, str, bool)

    assert plain(dict(module.hparams))


def test_a_failed_pair_does_not_affect_the_others(model: LoadedModel, tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    (good, bad, other) = explain(
        [pictures[0], str(tmp_path / "missing.png"), pictures[1]],
        ["a red circle", "a star", "a blue star"],
        model=model,
    )
    assert good.error is None
    assert other.error is None
    assert bad.error is not None
    assert "does not exist" in bad.error
