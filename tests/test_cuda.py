"""Tests that need a GPU, skipped without one: ``python -m pytest tests/test_cuda.py``."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from m2ib_lightning import ScenesDataModule, explain, load_attributions, load_model
from m2ib_lightning.cli import main
from m2ib_lightning.config import MODALITIES
from m2ib_lightning.methods import METHODS
from tests import ROOT
from tests.equality import assert_same_result, relative_difference
from tests.m2ib.test_invariants import LENGTHS, SETTINGS, make_explainer
from tests.tiny import FAMILIES, make_batch, make_model, make_pairs

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

NAMES = [name for name in METHODS if not METHODS.get(name).trained]


def assert_close(actual: Any, expected: Any, tolerance: float) -> None:
    """Assert max|a - b| / max|b|, where b may be all zeros."""
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


def some_scenes(count: int) -> tuple[list[Any], list[Any]]:
    datamodule = ScenesDataModule(load_model("scenes").preparer, seed=5, limit=count)
    datamodule.setup("fit")
    source: Any = datamodule.source
    raws = [source[k] for k in range(count)]
    return [raw.image for raw in raws], [raw.caption for raw in raws]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_gpu_gives_what_a_cpu_gives(family: str, dtype: torch.dtype) -> None:
    """The noise is drawn on the CPU, so the results differ by rounding only."""
    results = []
    for device in ("cpu", "cuda"):
        model = make_model(family).to(device)
        batch = make_batch(model, make_pairs(model, LENGTHS)).to(device)
        explainer = make_explainer(model, SETTINGS)
        explainer.bottlenecks.to(device, dtype)
        with explainer.at_work():
            results.append(explainer(batch, explainer.optimizer()))
    for a, b in zip(*results, strict=True):
        assert_same_result(a, b, 1e-8 if dtype == torch.float64 else 1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_each_method_gives_what_it_gives_on_a_cpu(name: str) -> None:
    images, captions = some_scenes(3)
    options: dict[str, Any] = {"method": name, "dtype": torch.float64, "bottleneck": {"steps": 3}}
    for a, b in zip(
        explain(images, captions, device="cuda", **options),
        explain(images, captions, device="cpu", **options),
        strict=True,
    ):
        assert_close(a.image_saliency, b.image_saliency, 1e-6)
        assert_close(a.text_saliency, b.text_saliency, 1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_in_a_step_waits_for_the_device(family: str) -> None:
    """Torch itself reports the waits, where the CPU test can only look for operations that would wait."""
    model = make_model(family).cuda()
    explainer = make_explainer(model, SETTINGS | {"max_rows": 60})
    explainer.bottlenecks.cuda()
    with explainer.at_work():
        problems, _ = explainer.problems(make_batch(model, make_pairs(model, LENGTHS)).to("cuda"))
        for problem in problems.values():
            problem.evaluate(1, torch.Tensor.backward)  # loads kernels, allocates memory, moves the step's noise
        torch.cuda.set_sync_debug_mode("error")
        try:
            for problem in problems.values():
                problem.evaluate(1, torch.Tensor.backward)
            with pytest.raises(RuntimeError, match="synchronizing"):
                problem.whitened.sum().item()  # the test can fail
        finally:
            torch.cuda.set_sync_debug_mode("default")


def run(folder: Path, *keys: str) -> Path:
    quiet = ["trainer.enable_progress_bar=false", "output.heatmaps=0"]
    assert main([f"output_dir={folder}", "data.limit=48", *quiet, *keys]) == 0
    return folder


@pytest.mark.parametrize(("precision", "least"), [("bf16-mixed", 0.98), ("16-mixed", 0.99)])
def test_half_precisions(precision: str, least: float, tmp_path: Path) -> None:
    exact = load_attributions(run(tmp_path / "exact", "trainer.accelerator=gpu"))
    half = load_attributions(run(tmp_path / "half", "trainer.accelerator=gpu", f"trainer.precision={precision}"))
    assert half["key"] == exact["key"]
    assert half["error"] == [None] * 48
    for column in ("image_saliency", "text_saliency"):
        correlations = [
            np.corrcoef(np.ravel(a), np.ravel(b))[0, 1] for a, b in zip(half[column], exact[column], strict=True)
        ]
        assert np.median(correlations) > least, column


def test_a_run_gives_what_it_gives_on_a_cpu(tmp_path: Path) -> None:
    keys = ["trainer.precision=64-true", "data.limit=12"]
    gpu, cpu = (
        load_attributions(run(tmp_path / kind, f"trainer.accelerator={kind}", *keys)) for kind in ("gpu", "cpu")
    )
    for column in ("image_saliency", "text_saliency"):
        for a, b in zip(gpu[column], cpu[column], strict=True):
            assert relative_difference(np.asarray(a), np.asarray(b)) < 1e-6


def test_a_compiled_loop_gives_what_the_plain_one_gives(tmp_path: Path) -> None:
    plain, compiled = (
        load_attributions(run(tmp_path / name, "trainer.accelerator=gpu", f"model.compile={name}", "data.limit=8"))
        for name in ("false", "true")
    )
    for a, b in zip(compiled["image_saliency"], plain["image_saliency"], strict=True):
        assert relative_difference(np.asarray(a), np.asarray(b)) < 1e-3


def test_a_gpu_that_runs_out_of_memory_gives_the_same_results() -> None:
    images, captions = some_scenes(512)
    options: dict[str, Any] = {"device": "cuda", "batch_size": 512, "bottleneck": {"steps": 2}}
    torch.cuda.empty_cache()
    expected = explain(images, captions, **options)
    peak, total = torch.cuda.max_memory_allocated(), torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.4 * peak / total)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            results = explain(images, captions, **options)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any("out of memory" in str(warning.message) for warning in caught)
    for a, b in zip(results, expected, strict=True):
        assert a.error is None
        assert relative_difference(a.image_saliency, b.image_saliency) < 1e-3


TRAIN = ["task=finetune", "trainer.accelerator=gpu", "trainer.enable_progress_bar=false", "finetune.warmup=2"]


@pytest.mark.parametrize("mask", ["channel", "readout"])
def test_training_gives_the_weights_of_a_cpu(mask: str, tmp_path: Path) -> None:
    for kind in ("gpu", "cpu"):
        keys = [*TRAIN, f"trainer.accelerator={kind}", "data.limit=24", "data.batch_size=4", "trainer.max_epochs=2"]
        keys += ["trainer.precision=64-true", "finetune.lr=1e-4", f"finetune.mask={mask}"]
        assert main([*keys, f"output_dir={tmp_path / kind}"]) == 0
    for file in ("model.safetensors", "m2ib_bottleneck.safetensors"):
        gpu, cpu = (load_file(tmp_path / kind / "model" / file) for kind in ("gpu", "cpu"))
        for name, value in cpu.items():
            assert torch.allclose(gpu[name], value, atol=1e-5), name


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("kind", ["all", "lora", "bottleneck"])
def test_training_in_half_precision(kind: str, precision: str, tmp_path: Path) -> None:
    keys = [*TRAIN, f"trainer.precision={precision}", f"finetune.train={kind}", "finetune.mask=readout"]
    keys += ["data.limit=128", "data.batch_size=32", "trainer.max_epochs=8", "finetune.lr=1e-4", "data.num_workers=0"]
    assert main([*keys, f"output_dir={tmp_path / 'run'}"]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    if kind != "bottleneck":  # the bottleneck is trained to close, not for retrieval
        assert summary["val/image_to_text@5"] > 0.8
    assert math.isfinite(summary["train/loss"])
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    folder = str(tmp_path / "run" / "model")
    on_gpu, on_cpu = (explain(image, "a red star", model=folder, method="readout", device=d) for d in ("cuda", "cpu"))
    for m in MODALITIES:
        assert_close(getattr(on_gpu, m).saliency, getattr(on_cpu, m).saliency, 1e-3)


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_training_with_sharded_weights(precision: str, tmp_path: Path) -> None:
    """One rank holds all shards here; the tests of sharded training on a CPU have several ranks."""
    keys = [*TRAIN, "data.limit=24", "data.batch_size=4", "trainer.max_epochs=2", "finetune.lr=1e-4"]
    keys += ["finetune.mask=readout", f"trainer.precision={precision}", "trainer.devices=1"]
    for name, strategy in (("sharded", ["trainer.strategy=fsdp"]), ("unsharded", [])):
        command = [sys.executable, str(ROOT / "fit.py"), *keys, *strategy, f"output_dir={tmp_path / name}"]
        subprocess.run(command, check=True, timeout=300, cwd=ROOT)
        subprocess.run([*command, "resume=true"], check=True, timeout=300, cwd=ROOT)  # training is done: validates only
    atol = 1e-5 if precision == "64-true" else 3e-3  # where a gradient is rounding, Adam steps by lr, 10 times here
    for file in ("model.safetensors", "m2ib_bottleneck.safetensors"):
        sharded, unsharded = (load_file(tmp_path / name / "model" / file) for name in ("sharded", "unsharded"))
        for name, value in unsharded.items():
            assert torch.allclose(sharded[name], value, atol=atol), name


def test_a_comparison_of_methods(tmp_path: Path) -> None:
    keys = ["--config", "evaluate-quick", "trainer.accelerator=gpu", "data.limit=6", "evaluate.probed=2"]
    assert main([*keys, "trainer.enable_progress_bar=false", f"output_dir={tmp_path / 'run'}"]) == 0
    assert (tmp_path / "run" / "report.html").exists()
