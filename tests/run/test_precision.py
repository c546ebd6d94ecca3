"""The invariants in bfloat16 and float16, with a tolerance of each on the saliency: max|a - b| / max|b|."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer

from m2ib_lightning import M2IBModule, ScenesDataModule, explain, half_precision, load_model
from m2ib_lightning.config import MODALITIES
from m2ib_lightning.encoder.frozen import frozen
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.m2ib import explainer
from m2ib_lightning.m2ib.optimise import optimise
from m2ib_lightning.results.attribution import Attribution
from tests.equality import relative_difference
from tests.m2ib.test_invariants import LENGTHS, assert_unchanged, make_explainer, snapshot
from tests.reference import clean_embeddings
from tests.run.test_module import Collector
from tests.tiny import DEEP, FAMILIES, make_batch, make_model, make_pairs

PRECISIONS = [(torch.bfloat16, 2e-2), (torch.float16, 2e-3)]
"""Types with 4 to 5 units in the last place (2**-8, 2**-11) of the largest saliency, after some blocks and steps."""

MODELS = [("clip", {}), ("clip-legacy", DEEP), ("siglip", {})]


def each_type_and_each_model() -> list[Any]:
    """The small CLIP in bfloat16; the others are slow."""
    return [
        pytest.param(dtype, tolerance, *model, marks=pytest.mark.slow if row or index else ())
        for row, (dtype, tolerance) in enumerate(PRECISIONS)
        for index, model in enumerate(MODELS)
    ]


def explain_in(dtype: torch.dtype, model: Any, order: list[int]) -> dict[str, Attribution]:
    pairs, explainer = make_pairs(model, LENGTHS), make_explainer(model)
    batch = make_batch(model, [pairs[k] for k in order], [str(k) for k in order])
    with explainer.at_work(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        return {result.pair.id: result for result in explainer(batch, explainer.optimizer())}


def assert_close(a: Attribution, b: Attribution, tolerance: float) -> None:
    for modality in MODALITIES:
        saliency, expected = getattr(a, modality).saliency, getattr(b, modality).saliency
        assert saliency.dtype == np.float32
        assert relative_difference(saliency, expected) < tolerance, modality


@pytest.mark.parametrize(("dtype", "tolerance", "family", "size"), each_type_and_each_model())
def test_parity_and_independence(dtype: torch.dtype, tolerance: float, family: str, size: dict[str, Any]) -> None:
    model = make_model(family, **size)
    before = snapshot(model)
    exact = explain_in(torch.float32, model, [0, 1, 2, 3])  # equals the oracle to 1e-4
    together = explain_in(dtype, model, [0, 1, 2, 3])
    reverse = explain_in(dtype, model, [3, 2, 1, 0])
    for index in map(str, range(4)):
        alone = explain_in(dtype, model, [int(index)])[index]
        assert_close(together[index], exact[index], tolerance)
        assert_close(together[index], alone, tolerance)
        assert_close(reverse[index], alone, tolerance)
    assert_unchanged(model, before)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_open_gates_leave_both_embeddings_unchanged(dtype: torch.dtype, tolerance: float, family: str) -> None:
    model = make_model(family)
    pairs = make_pairs(model, LENGTHS)
    explainer = make_explainer(model, {"initial_alpha": 80.0, "noise_samples": 2})
    with explainer.at_work(), torch.autocast("cpu", dtype):
        problems, _ = explainer.problems(make_batch(model, pairs))
        for modality, problem in problems.items():
            draws = problem.bottleneck(problem.whitened, problem.noise(0, problem.whitened.shape[1], problem.whitened))
            opened = problem.suffix(draws[:, 1].detach(), problem.hidden.layout)
            assert opened.dtype == torch.float32
            for index, pair in enumerate(pairs):
                with torch.autocast("cpu", enabled=False):
                    untouched = clean_embeddings(model, pair.pixels[None], torch.tensor([pair.ids]))[modality][0]
                assert relative_difference(opened[index], untouched) < tolerance


def test_float16_needs_its_loss_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("clip")
    exact = explain_in(torch.float32, model, [0, 1])

    def error() -> float:
        half = explain_in(torch.float16, model, [0, 1])
        return max(relative_difference(half[k].image_saliency, exact[k].image_saliency) for k in ("0", "1"))

    scaled = error()
    monkeypatch.setattr(explainer, "_HALF_LOSS_SCALE", 2.0**-12)  # as small as the gradients of a deeper model
    assert error() > 3 * scaled


def test_a_gradient_that_overflows_fails_only_its_own_pair() -> None:
    model = make_model("clip")
    pairs = make_pairs(model, [3, 4, 5])
    explainer = make_explainer(model)
    draws = explainer.settings.noise_samples
    results: list[torch.Tensor] = []
    with explainer.at_work(), torch.autocast("cpu", torch.float16):
        for factor in (1.0, 1e9):
            problems, similarity = explainer.problems(make_batch(model, pairs))
            assert similarity.isfinite().all()
            problem = problems["image"]

            def run(
                hidden: torch.Tensor, pooled: Any, factor: float = factor, suffix: Any = problem.suffix
            ) -> torch.Tensor:
                embeddings = suffix(hidden, pooled)
                if embeddings.requires_grad:  # scales the second pair's gradient, in float16
                    scale = torch.ones(len(embeddings), 1)
                    scale[draws : 2 * draws] = factor
                    embeddings.register_hook(lambda gradient: gradient * scale)
                return embeddings

            problem.suffix = run
            results.append(optimise({"image": problem}, steps=3, optimizer=explainer.optimizer())["image"].saliency)
    normal, overflowed = results
    assert normal.isfinite().all()
    assert not overflowed[1].isfinite().all()
    for index in (0, 2):
        assert torch.equal(overflowed[index], normal[index])


@pytest.mark.slow
@pytest.mark.parametrize(
    "plugin",
    [pytest.param(half_precision("cpu"), id="16"), pytest.param("bf16-mixed", id="bf16")],
)
def test_the_trainer_gives_what_explain_gives_under_autocast(plugin: Any) -> None:
    model = load_model("scenes")
    dtype = torch.bfloat16 if plugin == "bf16-mixed" else torch.float16
    collector = Collector()
    arguments: dict[str, Any] = {"precision": plugin} if isinstance(plugin, str) else {"plugins": [plugin]}
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[collector],
        **arguments,
    )
    datamodule = ScenesDataModule(model.preparer, seed=3, limit=2, batch_size=2)
    settings = {"steps": 2, "noise_samples": 2}
    module = M2IBModule(model, model.preset.override(settings), seed=2)
    trainer.fit(module, datamodule=datamodule)
    assert all(parameter.dtype == torch.float32 for parameter in module.parameters())
    source: Any = datamodule.source
    pairs = [source[k] for k in range(2)]
    pictures, captions = [pair.image for pair in pairs], [str(pair.caption) for pair in pairs]
    with torch.autocast("cpu", dtype):
        same = explain(pictures, captions, model=model, bottleneck=settings, seed=2)
    exact = explain(pictures, captions, model=model, bottleneck=settings, seed=2)
    for result, expected, precise in zip(collector.results, same, exact, strict=True):
        assert_close(result, expected, 1e-6)
        assert relative_difference(result.image_saliency, precise.image_saliency) > 1e-6  # the precision differs


def test_a_shared_gradient_scaler_is_refused() -> None:
    model = load_model("scenes")
    plugin = half_precision("cpu")
    plugin.scaler = torch.amp.GradScaler("cpu")
    trainer = Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, plugins=[plugin])
    with pytest.raises(M2IBError, match=r"skips the step of every pair .*half_precision"):
        trainer.fit(M2IBModule(model), datamodule=ScenesDataModule(model.preparer, limit=1))


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_alphas_in_half_precision_are_refused(precision: Any) -> None:
    model = load_model("scenes")
    trainer = Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, precision=precision)
    with pytest.raises(M2IBError, match=f"{precision}.* must stay float32; use bf16-mixed"):
        trainer.fit(M2IBModule(model), datamodule=ScenesDataModule(model.preparer, limit=1))


def test_weights_can_not_be_cast_to_bfloat16() -> None:
    model = make_model("clip")
    with pytest.raises(M2IBError, match="would change them"), frozen(model, dtype=torch.bfloat16):
        pass
