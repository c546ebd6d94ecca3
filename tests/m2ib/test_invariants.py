"""Invariants 2, 3 and 4: identity, an unchanged model, and results that depend on pair, config and seed only."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from m2ib_lightning.config import MODALITIES
from m2ib_lightning.encoder.frozen import frozen
from m2ib_lightning.encoder.towers import Encoder
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.m2ib.explainer import Explainer, resolve
from m2ib_lightning.m2ib.settings import BottleneckSettings
from tests.equality import assert_same_result, relative_difference
from tests.reference import clean_embeddings
from tests.tiny import DEEP, FAMILIES, TinyPair, make_batch, make_model, make_pairs

LENGTHS = [3, 9, 1, 14, 2, 6, 5]
SETTINGS = {"steps": 4, "noise_samples": 3, "image": {"layer": 0}, "text": {"layer": -1, "granularity": "token"}}


def make_explainer(model: Any, settings: dict[str, Any] | None = None, seed: int = 0) -> Explainer:
    encoder = Encoder(model)
    return Explainer(encoder, resolve(BottleneckSettings().override(settings or SETTINGS), encoder), seed=seed)


def explain_batch(model: Any, order: list[int], dtype: torch.dtype, seed: int = 0) -> dict[str, Any]:
    pairs = make_pairs(model, LENGTHS)
    explainer = make_explainer(model, seed=seed)
    explainer.bottlenecks.to(dtype)
    batch = make_batch(model, [pairs[k] for k in order], [str(k) for k in order])
    with explainer.at_work():
        return {result.pair.id: result for result in explainer(batch, explainer.optimizer())}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [-1, 0, 1])
def test_open_gates_leave_both_embeddings_unchanged(family: str, layer: int) -> None:
    """Invariant 2."""
    model = make_model(family)
    pairs = make_pairs(model, LENGTHS)
    settings = {"image": {"layer": layer}, "text": {"layer": layer}, "initial_alpha": 80.0, "noise_samples": 2}
    explainer = make_explainer(model, settings)
    with explainer.at_work():
        problems, similarity = explainer.problems(make_batch(model, pairs))
        for modality in MODALITIES:
            problem = problems[modality]
            noise = problem.noise(0, problem.whitened.shape[1], problem.whitened)
            draws = problem.bottleneck(problem.whitened, noise)
            opened = problem.suffix(draws[:, 1], problem.hidden.layout)
            for index, pair in enumerate(pairs):
                untouched = clean_embeddings(model, pair.pixels[None], torch.tensor([pair.ids]))
                assert relative_difference(opened[index], untouched[modality][0]) < 1e-6
    for index, pair in enumerate(pairs):
        output = model(pixel_values=pair.pixels[None], input_ids=torch.tensor([pair.ids]))
        cosine = torch.nn.functional.cosine_similarity(output.image_embeds, output.text_embeds)
        assert abs(cosine.item() - similarity[index].item()) < 1e-6


def snapshot(model: Any) -> dict[str, Any]:
    return {
        "state": copy.deepcopy(model.state_dict()),
        "flags": [parameter.requires_grad for parameter in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "device": next(model.parameters()).device,
        "dtype": next(model.parameters()).dtype,
    }


def assert_unchanged(model: Any, before: dict[str, Any]) -> None:
    after = snapshot(model)
    for name in ("flags", "modes", "hooks", "device", "dtype"):
        assert after[name] == before[name], name
    for name, tensor in before["state"].items():
        assert torch.equal(tensor, after["state"][name]), name
    assert all(parameter.grad is None for parameter in model.parameters())


def test_casting_a_model_down_is_refused() -> None:
    model = make_model("clip").double()
    with pytest.raises(M2IBError, match="would change them"), frozen(model, dtype=torch.float32):
        pass


@pytest.mark.parametrize(
    ("family", "size", "dtype", "tolerance"),
    [
        ("clip", {}, torch.float64, 1e-9),
        ("clip", {}, torch.float32, 1e-5),
        pytest.param("clip-legacy", DEEP, torch.float64, 1e-9, marks=pytest.mark.slow),
        pytest.param("clip-legacy", DEEP, torch.float32, 1e-5, marks=pytest.mark.slow),
        pytest.param("siglip", {}, torch.float64, 1e-9, marks=pytest.mark.slow),
        ("siglip", {}, torch.float32, 1e-5),
    ],
)
def test_neighbours_and_order_do_not_matter(
    family: str, size: dict[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    """Invariant 4."""
    model = make_model(family, **size)
    together = explain_batch(model, list(range(7)), dtype)
    reverse = explain_batch(model, list(range(6, -1, -1)), dtype)
    for index in range(7):
        alone = explain_batch(model, [index], dtype)[str(index)]
        assert_same_result(together[str(index)], alone, tolerance)
        assert_same_result(reverse[str(index)], alone, tolerance)


def test_the_seed_matters_and_is_reproducible() -> None:
    model = make_model("clip")
    first, again, other = (explain_batch(model, [0, 1], torch.float64, seed=seed)["0"] for seed in (0, 0, 1))
    assert_same_result(first, again, 1e-12)
    assert relative_difference(first.image.saliency, other.image.saliency) > 1e-4


def test_a_batch_does_not_depend_on_the_previous_one() -> None:
    model = make_model("clip")
    pairs = make_pairs(model, LENGTHS)
    explainer = make_explainer(model)
    explainer.bottlenecks.double()
    optimizer = explainer.optimizer()
    with explainer.at_work():
        explainer(make_batch(model, pairs[:4]), optimizer)
        (second,) = explainer(make_batch(model, pairs[5:6], ["5"]), optimizer)
    assert_same_result(second, explain_batch(model, [5], torch.float64)["5"], 1e-12)


def test_a_pair_that_gives_nan_fails_alone() -> None:
    model = make_model("clip")
    pairs = make_pairs(model, [3, 4, 5])
    good = make_explainer(model)
    with good.at_work():
        expected = good(make_batch(model, pairs), good.optimizer())
        broken = pairs[1]
        pairs[1] = TinyPair(torch.full_like(broken.pixels, torch.nan), broken.ids, broken.positions)
        results = good(make_batch(model, pairs), good.optimizer())
    assert results[1].error is not None
    assert "not finite" in results[1].error
    for index in (0, 2):
        assert_same_result(results[index], expected[index], 1e-5)


def test_a_nan_weight_fails_only_the_pairs_that_read_it() -> None:
    model = make_model("clip")
    pairs = make_pairs(model, [3, 14, 5])
    expected = [explain_alone(model, pair) for pair in pairs]
    with torch.no_grad():  # only the longest caption reads this position; it is padding in the others
        model.text_model.embeddings.position_embedding.weight[12] = torch.nan
    explainer = make_explainer(model)
    with explainer.at_work():
        results = explainer(make_batch(model, pairs), explainer.optimizer())
    assert [result.error is None for result in results] == [True, False, True]
    for index in (0, 2):
        for name in ("saliency", "loss"):
            for tower in ("image", "text"):
                actual, wanted = (getattr(getattr(r, tower), name) for r in (results[index], expected[index]))
                assert relative_difference(actual, wanted) < 1e-5


def explain_alone(model: Any, pair: TinyPair) -> Any:
    explainer = make_explainer(model)
    with explainer.at_work():
        (result,) = explainer(make_batch(model, [pair]), explainer.optimizer())
    return result


@given(
    family=st.sampled_from(FAMILIES),
    layers=st.tuples(st.integers(-1, 1), st.integers(-1, 1)),
    granularity=st.sampled_from(["element", "token"]),
    stop=st.none() | st.tuples(st.sampled_from([RuntimeError, KeyboardInterrupt]), st.integers(1, 8)),
    training=st.booleans(),
    double=st.booleans(),
)
@settings(deadline=None, max_examples=20)
def test_the_model_is_never_changed(
    family: str,
    layers: tuple[int, int],
    granularity: str,
    stop: tuple[type[BaseException], int] | None,
    training: bool,
    double: bool,
) -> None:
    """Invariant 3, also when an exception stops the work."""
    model = make_model(family).train(training)
    model.text_model.eval()
    model.logit_scale.requires_grad_(False)
    before = snapshot(model)
    towers = {m: {"layer": layer, "granularity": granularity} for m, layer in zip(MODALITIES, layers, strict=True)}
    settings: dict[str, Any] = {"steps": 3, "noise_samples": 2} | towers
    explainer = make_explainer(model, settings)
    dtype = torch.float64 if double else torch.float32
    explainer.bottlenecks.to(dtype)
    calls = 0

    def backward(loss: torch.Tensor) -> None:
        nonlocal calls
        calls += 1
        loss.backward()
        assert all(parameter.grad is None for parameter in model.parameters())
        if stop is not None and calls == stop[1]:
            raise stop[0]

    expected: Any = pytest.raises(stop[0]) if stop is not None else nullcontext()
    with expected, explainer.at_work():
        explainer(make_batch(model, make_pairs(model, [3, 5])), explainer.optimizer(), backward)
    assert calls == (8 if stop is None else stop[1])  # two steps x two towers x (the information and one chunk)
    assert_unchanged(model, before)
