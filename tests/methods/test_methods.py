"""Each attribution method against a slow re-implementation, and the invariants of all methods."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from m2ib_lightning import explain, load_model
from m2ib_lightning.encoder.patches import gather, spread
from m2ib_lightning.encoder.towers import Encoder
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.m2ib.explainer import resolve
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.methods import METHODS, Context, Method, SaliencyMethod, make_method, register_method
from m2ib_lightning.methods.scorer import Scorer
from m2ib_lightning.models import LoadedModel
from m2ib_lightning.results.attribution import Attribution
from tests import method_references as oracle
from tests.equality import relative_difference
from tests.m2ib.test_invariants import assert_unchanged, snapshot
from tests.tiny import FAMILIES, TinyPair, make_batch, make_model, make_pairs

CPU = torch.device("cpu")
LENGTHS = [3, 7, 1, 12]
FAST = {"rise": "rise:samples=20", "kernelshap": "kernelshap:samples=20", "m2ib": "m2ib:steps=3,noise_samples=2"}
FAST |= {"exclip": "exclip:steps=2", "fixlip": "fixlip:samples=80,captions=30"}
NAMES = [FAST.get(name, name) for name in METHODS if not METHODS.get(name).trained]
POOLED = ("clip", "clip-legacy")  # families whose image tower pools one token
LITERAL = {
    "saliency": oracle.saliency,
    "input_x_gradient": oracle.input_x_gradient,
    "integrated_gradients:steps=5": lambda p, m: oracle.integrated_gradients(p, m, 5),
    "gradcam": oracle.gradcam,
    "nib:image_layer=0,text_layer=1,steps=4": lambda p, m: oracle.nib(p, m, 0 if m == "image" else 1, 4),
    "occlusion": oracle.occlusion,
    "attention_rollout": oracle.attention_rollout,
    "chefer": lambda pair, modality: oracle.chefer(pair, modality, 2),
    "chefer:image_layer=0,text_layer=1": lambda p, m: oracle.chefer(p, m, 0 if m == "image" else 1),
    "grad_eclip": oracle.grad_eclip,
}
READS_ATTENTION = ("attention_rollout", "chefer", "grad_eclip")
ON_LEGACY_CLIP = ("saliency", "gradcam", "chefer")
"""One method of each kind; slow tests try the others on ``clip-legacy``, which pools at another token."""


def context_of(model: Any, seed: int = 0) -> Context:
    encoder = Encoder(model)
    return Context(LoadedModel(encoder, None), resolve(BottleneckSettings(), encoder), seed=seed)


def run(method: Method, batch: Any, dtype: torch.dtype = torch.float64) -> list[Attribution]:
    with method.at_work(CPU, dtype):
        return method(batch)


def text_saliency(method: Any, batch: Any) -> torch.Tensor:
    """Only the captions' maps (B, T), where many samples of images would only take time."""
    with method.at_work(CPU, torch.float64):
        saliency: torch.Tensor = method.text_saliency(batch, method.scorer.clean(batch))
    return saliency


def as_oracle_sees(model: Any, pair: TinyPair) -> oracle.OnePair:
    return oracle.OnePair(model, pair.pixels[None].double(), torch.tensor([pair.ids]), pair.positions)


def assert_close(actual: Any, expected: Any, tolerance: float, floor: float = 1e-15) -> None:
    """Relative to the map's largest value; maps may be zero, or as small as the rounding of a cosine (``floor``)."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max() + floor


def assert_maps(result: Attribution, pair: oracle.OnePair, literal: Any, modalities: tuple[str, ...]) -> None:
    for modality in modalities:
        assert_close(getattr(result, modality).saliency, literal(pair, modality).numpy(), 1e-6)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        pytest.param(
            name, family, marks=pytest.mark.slow if family == "clip-legacy" and name not in ON_LEGACY_CLIP else ()
        )
        for name in LITERAL
        for family in FAMILIES
    ],
)
def test_a_method_is_its_definition(name: str, family: str) -> None:
    model = make_model(family).double()
    pairs = make_pairs(model, [7, 1])
    results = run(make_method(name, context_of(model)), make_batch(model, pairs))
    reads_attention = name.split(":")[0] in READS_ATTENTION
    modalities = ("image", "text") if family in POOLED or not reads_attention else ("text",)
    for result, pair in zip(results, pairs, strict=True):
        assert_maps(result, as_oracle_sees(model, pair), LITERAL[name], modalities)


def test_attention_is_followed_into_a_head_that_pools_by_attention() -> None:
    """SigLIP's head: the attention of PyTorch's own module, times the blocks' rollout."""
    model = make_model("siglip").double()
    (pair,) = make_pairs(model, [4])
    seen = as_oracle_sees(model, pair)
    layers, _, _ = oracle.attention_of(seen, "image")
    head = model.vision_model.head
    hidden = model.vision_model.post_layernorm(seen.states("image", 2))
    _, weights = head.attention(head.probe, hidden, hidden)  # (1, 1, T), heads averaged
    total = torch.eye(16, dtype=torch.float64)
    for layer in layers:
        total = 0.5 * (layer[0].mean(0) + torch.eye(16, dtype=torch.float64)) @ total
    (result,) = run(make_method("attention_rollout", context_of(model)), make_batch(model, [pair]))
    expected = (weights[0, 0] @ total).view(4, 4)
    assert relative_difference(result.image_saliency, expected.detach().numpy()) < 1e-6
    for name in ("chefer", "grad_eclip"):
        (other,) = run(make_method(name, context_of(model)), make_batch(model, [pair]))
        assert other.image_saliency.max() > other.image_saliency.min() >= 0


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_integrated_gradients_sum_to_the_difference(family: str) -> None:
    model = make_model(family).double()
    pairs = make_pairs(model, [3, 12])
    results = run(make_method("integrated_gradients:steps=60", context_of(model)), make_batch(model, pairs))
    for result, pair in zip(results, pairs, strict=True):
        seen = as_oracle_sees(model, pair)
        difference = seen.picture(seen.pixels) - seen.picture(seen.pixels * 0)
        assert abs(result.image_saliency.sum() * seen.patch**2 - difference.item()) < 1e-4
        difference = seen.hidden("text", -1, seen.states("text", -1)) - seen.hidden("text", -1, seen.absent())
        assert abs(result.text_saliency.sum() - difference.item()) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_rise_is_its_definition(family: str) -> None:
    model = make_model(family).double()
    pairs = make_pairs(model, [4, 2])
    method: Any = make_method("rise:samples=12", context_of(model, seed=3))
    results = run(method, make_batch(model, pairs))
    masks = method._masks((4, 4), (32, 32)).double()
    assert masks.shape == (12, 32, 32)
    assert 0 <= masks.min() < masks.max() <= 1 + 1e-6
    for result, pair in zip(results, pairs, strict=True):
        expected = oracle.rise_picture(as_oracle_sees(model, pair), masks)
        assert relative_difference(result.image_saliency, expected.numpy()) < 1e-6


@pytest.mark.slow
def test_rise_keeps_each_pixel_half_of_the_time() -> None:
    method: Any = make_method("rise:samples=4000", context_of(make_model("clip")))
    masks = method._masks((4, 4), (32, 32))
    assert (masks.mean(0) - 0.5).abs().max() < 0.05  # 6 standard errors of a mask that is 0 or 1


@pytest.mark.slow
def test_rise_of_words_tends_to_the_mean_over_all_subsets() -> None:
    """E[c M] / p, literally, over all 2^n subsets of the words."""
    model = make_model("clip").double()
    (pair,) = make_pairs(model, [4])
    seen = as_oracle_sees(model, pair)
    z, absent = seen.states("text", -1), seen.absent()
    kept = torch.tensor([[bool(k >> word & 1) for word in range(4)] for k in range(16)])
    cosines = []
    for row in kept:
        altered = z.clone()
        for word, place in enumerate(seen.places):
            altered[0, place] = z[0, place] if row[word] else absent[0, place]
        cosines.append(seen.hidden("text", -1, altered).detach())
    expected = torch.stack(cosines) @ kept.double() / 8
    saliency = text_saliency(make_method("rise:samples=20000", context_of(model)), make_batch(model, [pair]))
    assert (saliency[0, pair.positions] - expected).abs().max() < 0.02  # cosines below 1, 20,000 draws


@pytest.mark.slow
@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_kernelshap_gives_shapley_values(family: str) -> None:
    model = make_model(family).double()
    pairs = make_pairs(model, [4, 1])
    batch = make_batch(model, pairs)
    of_words = text_saliency(make_method("kernelshap:samples=3000", context_of(model)), batch)
    results = run(make_method("kernelshap:samples=100", context_of(model)), batch)
    for row, (result, pair) in enumerate(zip(results, pairs, strict=True)):
        seen = as_oracle_sees(model, pair)
        expected = oracle.shapley_words(seen)
        error = (of_words[row, pair.positions] - expected).abs().max()
        assert error < 0.05 * expected.abs().max()  # it samples coalitions
        difference = seen.picture(seen.pixels) - seen.picture(seen.pixels * 0)
        assert abs(result.image_saliency.sum() - difference.item()) < 1e-4


def every_method_on_one_of(families: tuple[str, str], dtypes: tuple[torch.dtype, torch.dtype]) -> list[Any]:
    """Each method with one family and one type, which take turns; the rest of the product is slow."""
    return [
        pytest.param(
            name,
            family,
            dtype,
            id=f"{name}-{family}-{dtype}".replace("torch.", ""),
            marks=() if (f, d) == (n % 2, n // 2 % 2) else pytest.mark.slow,
        )
        for n, name in enumerate(NAMES)
        for f, family in enumerate(families)
        for d, dtype in enumerate(dtypes)
    ]


@pytest.mark.parametrize(
    ("name", "family", "dtype"), every_method_on_one_of(("clip", "siglip"), (torch.float64, torch.float32))
)
def test_neighbours_and_order_do_not_matter_and_the_model_is_untouched(
    name: str, family: str, dtype: torch.dtype
) -> None:
    model = make_model(family)
    pairs = make_pairs(model, [7, 1])
    before = snapshot(model)
    method = make_method(name, context_of(model))
    double = 1e-5 if name.startswith("kernelshap") else 1e-9  # Captum's regression is in float32
    tolerance, floor = (double, 1e-15) if dtype == torch.float64 else (1e-4, 3e-7)
    together = run(method, make_batch(model, pairs), dtype)
    reverse = run(method, make_batch(model, pairs[::-1], list("10")), dtype)[::-1]
    for index, pair in enumerate(pairs):
        (alone,) = run(method, make_batch(model, [pair], [str(index)]), dtype)
        for other in (together[index], reverse[index]):
            assert_close(other.image_saliency, alone.image_saliency, tolerance, floor)
            assert_close(other.text_saliency, alone.text_saliency, tolerance, floor)
        assert alone.image_saliency.shape == (4, 4)
        assert alone.text_saliency.shape == (len(pair.positions),)
    assert_unchanged(model, before)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_matters_only_to_random_methods(name: str) -> None:
    model = make_model("clip")
    batch = make_batch(model, make_pairs(model, [5]))
    first, again, other = (run(make_method(name, context_of(model, seed)), batch)[0] for seed in (0, 0, 1))
    assert relative_difference(first.image_saliency, again.image_saliency) == 0
    assert relative_difference(first.text_saliency, again.text_saliency) == 0
    differs = relative_difference(first.image_saliency, other.image_saliency) > 1e-6
    assert differs == METHODS.get(name.split(":")[0]).random


@pytest.mark.parametrize("name", NAMES)
def test_only_methods_that_are_not_pair_specific_ignore_the_caption(name: str) -> None:
    model = make_model("clip")
    one, other = make_pairs(model, [5]), make_pairs(model, [5], seed=9)
    swapped = TinyPair(one[0].pixels, other[0].ids, other[0].positions)
    maps = [run(make_method(name, context_of(model)), make_batch(model, [pair]))[0] for pair in (one[0], swapped)]
    differs = relative_difference(maps[0].image_saliency, maps[1].image_saliency) > 1e-6
    assert differs == METHODS.get(name.split(":")[0]).pair_specific


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("random", "centre")])
def test_a_pair_that_gives_nan_fails_alone(name: str) -> None:
    model = make_model("clip")
    pairs = make_pairs(model, [3, 4])
    expected = run(make_method(name, context_of(model)), make_batch(model, pairs))
    pairs[0] = TinyPair(torch.full_like(pairs[0].pixels, torch.nan), pairs[0].ids, pairs[0].positions)
    results = run(make_method(name, context_of(model)), make_batch(model, pairs))
    assert results[0].error is not None
    assert "not finite" in results[0].error
    assert relative_difference(results[1].image_saliency, expected[1].image_saliency) < 1e-9


def test_removed_words_leave_the_special_tokens() -> None:
    model = make_model("clip").double()
    pairs = make_pairs(model, [3, 5])
    scorer = Scorer(Encoder(model))
    with scorer.at_work(CPU, torch.float64):
        words = scorer.words(make_batch(model, pairs))
        none, all_ = words.keep(torch.zeros(2, 7)), words.keep(torch.ones(2, 7))
    assert torch.equal(all_, words.hidden.z)
    assert torch.equal(none[:, 0], words.hidden.z[:, 0])
    assert torch.equal(none[0, 4], words.hidden.z[0, 4])
    assert relative_difference(none[:1, :5], as_oracle_sees(model, pairs[0]).absent()) < 1e-12


def test_patches_and_pixels() -> None:
    cells = torch.arange(6.0).view(2, 3)
    large = spread(cells, (4, 6))
    assert large.shape == (4, 6)
    assert torch.equal(gather(large[None], (2, 3))[0], cells)
    assert large[0].tolist() == [0, 0, 1, 1, 2, 2]
    uneven = spread(cells, (5, 8))  # patches of 2 pixels, and a remainder that no patch reads
    assert uneven[0].tolist() == [0, 0, 1, 1, 2, 2, 2, 2]
    assert uneven[:, 0].tolist() == [0, 0, 3, 3, 3]
    assert torch.equal(gather(uneven[None], (2, 3))[0], cells)


@pytest.mark.parametrize("name", ["nib", "saliency", "chefer", "rise:samples=20"])
def test_when_memory_runs_out_the_batch_is_halved(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("clip")
    pairs = make_pairs(model, LENGTHS)
    expected = run(make_method(name, context_of(model)), make_batch(model, pairs))
    method = make_method(name, context_of(model))
    assert isinstance(method, SaliencyMethod)
    image_saliency = type(method).image_saliency

    def small(self: Any, batch: Any, clean: Any) -> torch.Tensor:
        if len(batch) > 1 or batch.pairs[0].key == "test:2":
            raise torch.OutOfMemoryError("no memory left")
        return image_saliency(self, batch, clean)

    monkeypatch.setattr(type(method), "image_saliency", small)
    results = run(method, make_batch(model, pairs))
    assert results[2].error is not None
    assert "memory" in results[2].error
    for index in (0, 1, 3):
        assert_close(results[index].image_saliency, expected[index].image_saliency, 1e-9)


def test_a_method_does_not_change_the_batch() -> None:
    model = make_model("clip").double()
    batch = make_batch(model, make_pairs(model, [5, 3]))
    batch.inputs["image"]["pixel_values"] = batch.inputs["image"]["pixel_values"].double()
    for name in NAMES:
        before = {m: {k: t.clone() for k, t in batch.inputs[m].items()} for m in ("image", "text")}
        run(make_method(name, context_of(model)), batch)
        for modality, inputs in before.items():
            for key, tensor in inputs.items():
                assert torch.equal(batch.inputs[modality][key], tensor)  # type: ignore[index]
                assert not batch.inputs[modality][key].requires_grad  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grad_cam", "unknown attribution method 'grad_cam'.*Did you mean 'gradcam'.*register_method"),
        ("rise:sample=10", "method 'rise' has no option 'sample': it has samples. Did you mean 'samples'"),
        ("rise:samples=many", "samples must be a whole number, got 'many'"),
        ("rise:samples=1", "samples must be at least 2, got 1"),
        ("saliency:steps=3", "method 'saliency' has no option 'steps': it has none"),
        ("gradcam:image_layer=9", "image.layer=9 is out of range: this tower has 3 blocks"),
        ("nib:text_layer=2", "the last block's output: pooling reads one token"),
        ("chefer:image_layer=-1", "image_layer=-1 is out of range: this tower has 3 blocks"),
        ("rise:samples=[1", "expected name, or name:option=value"),
        ("rise:samples", "expected name, or name:option=value"),
        ("m2ib:image.betas=1", "unknown key bottleneck.image.betas.*Did you mean 'beta'"),
        ("m2ib:image.layer=2", "out of range"),
    ],
)
def test_a_mistake_lists_what_exists(text: str, message: str) -> None:
    with pytest.raises(M2IBError, match=message):
        make_method(text, context_of(make_model("clip")))


def test_a_user_method_takes_one_class() -> None:
    class Ones(SaliencyMethod):
        """Everything matters."""

        def image_saliency(self, batch: Any, clean: Any) -> torch.Tensor:
            return torch.ones(len(batch), *self.scorer.grid(batch))

        def text_saliency(self, batch: Any, clean: Any) -> torch.Tensor:
            return torch.ones(batch.inputs["text"]["input_ids"].shape)

    register_method("ones", Ones)
    try:
        model = make_model("clip")
        (result,) = run(make_method("ones", context_of(model)), make_batch(model, make_pairs(model, [5])))
        assert result.image_saliency.tolist() == [[1.0] * 4] * 4
        assert result.text_saliency.tolist() == [1.0] * 5
        with pytest.raises(ValueError, match="registered already"):
            register_method("ones", Ones)
    finally:
        METHODS._items.pop("ones")


def test_a_class_that_lacks_a_method_is_not_registered() -> None:
    class Ones(Method):
        """The base is the wrong one."""

        def image_saliency(self, batch: Any, clean: Any) -> torch.Tensor:
            return torch.ones(len(batch), 4, 4)

    with pytest.raises(TypeError, match=r"Ones must define __call__\. Derive it from SaliencyMethod to define image"):
        register_method("ones", Ones)  # type: ignore[type-abstract]
    assert "ones" not in METHODS


def test_without_captum_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    for name in ("saliency", "integrated_gradients", "occlusion", "kernelshap"):
        with pytest.raises(M2IBError, match=r"pip install 'm2ib_lightning\[evaluate\]'"):
            make_method(name, context_of(make_model("clip")))


def test_hidden_attention_is_refused() -> None:
    model = make_model("clip")
    model.vision_model.encoder.layers[1].register_forward_hook(lambda module, args, output: output)
    with pytest.raises(M2IBError, match="reads attention, and the blocks of the image tower"):
        make_method("chefer", context_of(model))


@pytest.fixture(scope="module")
def scenes() -> LoadedModel:
    return load_model("scenes")


@pytest.mark.parametrize("name", NAMES)
def test_explain_takes_a_method(name: str, scenes: LoadedModel, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    result = explain(image, "a red circle", model=scenes, method=name)
    assert result.image_heatmap.shape == (64, 64)
    assert result.tokens == ["a", "red", "circle"]
    is_m2ib = name.startswith("m2ib")
    assert (result.unit == "nats") == is_m2ib
    row = result.to_row()
    assert (row["image_loss"] is not None) == (row["text_information"] is not None) == is_m2ib
    if is_m2ib or name == "saliency":
        result.save(tmp_path / "result.png")
        result.save(tmp_path / "result.html")
        assert ("nats" in (tmp_path / "result.html").read_text()) == is_m2ib


def test_explain_against_an_embedding_has_no_words(scenes: LoadedModel) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    result = explain(image, target=np.ones(96, np.float32), model=scenes, method="saliency")
    assert result.text is None
    assert result.image_saliency.shape == (8, 8)


def test_any_methods_map_can_be_smoothed() -> None:
    from scipy.ndimage import gaussian_filter

    model = make_model("clip", image=128)  # 16 x 16 patches, so that borders, which differ, can be left out
    batch = make_batch(model, make_pairs(model, [5]))
    context = context_of(model)
    for name in ("saliency", "m2ib:steps=2"):
        (sharp,) = run(make_method(name, context), batch)
        joined = f"{name}{',' if ':' in name else ':'}smooth=0.7"
        (smooth,) = run(make_method(joined, context), batch)
        expected = gaussian_filter(sharp.image_saliency, 0.7)
        inner = (slice(4, -4), slice(4, -4))
        assert (
            relative_difference(smooth.image_saliency[inner], expected[inner]) < 1e-3
        )  # scipy's kernel ends at 4 sigma
        assert relative_difference(smooth.text_saliency, sharp.text_saliency) == 0
        assert smooth.unit == sharp.unit
    for bad in ("saliency:smooth=-1", "m2ib:smooth=wide", "rise:smooth=true"):
        with pytest.raises(M2IBError, match="smooth must be a number of patches, from 0 to 100"):
            make_method(bad, context)
