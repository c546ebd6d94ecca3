"""The second-order methods: their definitions, literally, and what their interactions must sum to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from PIL import Image

from m2ib_lightning import explain, ground
from m2ib_lightning.encoder.patches import spread
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.methods import make_method
from m2ib_lightning.methods.coalitions import all_coalitions, drawn_coalitions
from m2ib_lightning.models.load import wrap_model
from tests import method_references as oracle
from tests.encoder.test_fused_families import member
from tests.equality import relative_difference
from tests.methods.test_methods import CPU, as_oracle_sees, context_of, run
from tests.reference import embed, replaced
from tests.tiny import TinyPair, make_batch, make_model, make_pairs
from tests.zoo import MEMBERS

METHODS = ("fixlip:samples=40,captions=30", "exclip:steps=2")


def interactions(name: str, model: Any, pairs: list[TinyPair]) -> tuple[Any, torch.Tensor]:
    method: Any = make_method(name, context_of(model))
    batch = make_batch(model, pairs)
    with method.at_work(CPU, torch.float64):
        return method, method.interactions(batch, method.scorer.clean(batch))


@pytest.mark.parametrize("p", [0.3, 0.5, 0.8])
def test_the_regression_recovers_a_bilinear_game(p: float) -> None:
    """The value of patches M and words N is the sum of e_0, e_i, e_t and e_it over i in M and t in N."""
    generator = torch.Generator().manual_seed(0)
    of_patches, of_words = torch.randn(8, 5, generator=generator), torch.randn(4, 5, generator=generator)
    game = (of_words @ of_patches.T).double()  # row 0 and column 0: the constant and the first-order terms
    patches, words = drawn_coalitions(7, 30, p, [3]), all_coalitions(3, p)
    assert len(words.masks) == 8
    pictures, captions = ((F.pad(found.masks.double(), (1, 0), value=1.0)) for found in (patches, words))
    values = captions @ game @ pictures.T  # (8, 30)
    found = patches.effects(words.effects(values).T).T
    assert relative_difference(found, game[1:, 1:]) < 1e-12


def test_a_mean_over_all_coalitions_is_the_weighted_banzhaf_interaction() -> None:
    """The definition: the mean of v(S+i+t) - v(S+i) - v(S+t) + v(S), each other player in S with probability p."""
    p, rng = 0.7, np.random.default_rng(0)
    values = torch.from_numpy(rng.random((8, 4)))  # of 3 patches and 2 words, without any structure
    found = all_coalitions(2, p).effects(all_coalitions(3, p).effects(values).T)
    for patch in range(3):
        for word in range(2):
            expected = 0.0
            for rest in range(8):
                for others in range(4):
                    if rest >> patch & 1 or others >> word & 1:
                        continue
                    kept = rest.bit_count() + others.bit_count()
                    with_patch, with_word = rest | 1 << patch, others | 1 << word
                    difference = values[with_patch, with_word] - values[with_patch, others]
                    difference += values[rest, others] - values[rest, with_word]
                    expected += p**kept * (1 - p) ** (3 - kept) * float(difference)
            assert abs(float(found[word, patch]) - expected) < 1e-12


@pytest.mark.parametrize("family", ["clip", pytest.param("siglip", marks=pytest.mark.slow)])
@torch.no_grad()
def test_fixlip_is_one_regression_on_all_pairs_of_masks(family: str) -> None:
    model = make_model(family).double()
    (pair,) = make_pairs(model, [3])
    method, found = interactions("fixlip:samples=24,captions=6,p=0.6", model, [pair])
    seen = as_oracle_sees(model, pair)
    z, absent = seen.states("text", -1), seen.absent()
    kept, said = method.coalitions("samples", 16).masks, method.coalitions("captions", 3).masks
    assert (len(kept), len(said)) == (24, 6)
    pictures, captions = [], []
    for mask in kept:
        altered = seen.pixels * spread(mask.double().view(4, 4), (32, 32))
        pictures.append(embed(model, "image", altered, seen.ids)[0])
    for mask in said:
        altered = z.clone()
        for word, place in enumerate(seen.places):
            altered[0, place] = z[0, place] if mask[word] else absent[0, place]
        with replaced(model, "text", -1, lambda _, new=altered: new):
            captions.append(embed(model, "text", seen.pixels, seen.ids)[0])
    rows, cosines = [], []
    for picture, patches in zip(pictures, kept.double(), strict=True):
        for caption, words in zip(captions, said.double(), strict=True):
            rows.append(torch.cat([torch.ones(1), patches, words, torch.outer(words, patches).flatten()]))
            cosines.append(F.cosine_similarity(picture, caption, dim=0))
    fitted = np.linalg.lstsq(torch.stack(rows).double().numpy(), torch.stack(cosines).numpy(), rcond=None)[0]
    expected = fitted[1 + 16 + 3 :].reshape(3, 16)
    assert relative_difference(found[0, pair.positions], torch.from_numpy(expected)) < 1e-8


@pytest.mark.parametrize(
    ("family", "layers"),
    [
        pytest.param("clip", (-1, -1), marks=pytest.mark.slow),
        ("clip", (1, 0)),
        pytest.param("siglip", (1, 1), marks=pytest.mark.slow),
    ],
)
def test_exclip_is_its_definition(family: str, layers: tuple[int, int]) -> None:
    model = make_model(family).double()
    (pair,) = make_pairs(model, [3])
    name = f"exclip:steps=3,image_layer={layers[0]},text_layer={layers[1]}"
    _, found = interactions(name, model, [pair])
    seen = as_oracle_sees(model, pair)
    blank = oracle.OnePair(model, torch.zeros_like(seen.pixels), seen.ids, seen.places)
    moved = {}
    for modality, layer in zip(("image", "text"), layers, strict=True):
        state = seen.states(modality, layer)
        if modality == "image":
            reference = blank.states(modality, layer)
        else:
            reference = absent = seen.absent()
            if layer >= 0:
                with replaced(model, "text", -1, lambda _, new=absent: new):
                    reference = seen.states("text", layer)
        moved[modality] = integrated(seen, modality, layer, state.detach(), reference.detach())
    scale = seen.clean["image"].norm() * seen.clean["text"].norm()
    expected = moved["text"] @ moved["image"].T / scale
    places = seen.prefix + np.arange(16)
    assert relative_difference(found[0, pair.positions], expected[seen.places][:, places].detach()) < 1e-8


def integrated(seen: oracle.OnePair, modality: str, layer: int, state: Any, reference: Any) -> torch.Tensor:
    """The change (T, E) of the embedding by each token: each entry of the Jacobian, at each of 3 midpoints."""

    def embedding(z: torch.Tensor) -> torch.Tensor:
        with replaced(seen.model, modality, layer, lambda _: z):
            return embed(seen.model, modality, seen.pixels, seen.ids)[0]

    total = torch.zeros(())
    for step in range(3):
        jacobian = torch.autograd.functional.jacobian(embedding, reference + (step + 0.5) / 3 * (state - reference))
        total = total + torch.einsum("etd,td->te", jacobian[:, 0], (state - reference)[0]) / 3
    return total


@pytest.mark.parametrize("family", ["clip", pytest.param("siglip", marks=pytest.mark.slow)])
def test_exclip_is_complete(family: str) -> None:
    """All interactions sum to (e_I - e_I0) . (e_T - e_T0) / |e_I| |e_T|; padding has none."""
    model = make_model(family).double()
    pairs = make_pairs(model, [2, 6])
    method: Any = make_method("exclip:steps=40,image_layer=0,text_layer=0", context_of(model))
    batch = make_batch(model, pairs)
    with method.at_work(CPU, torch.float64):
        everything = method.of_tokens(batch, method.scorer.clean(batch))
    for row, pair in enumerate(pairs):
        seen = as_oracle_sees(model, pair)
        image, text = seen.clean["image"][0], seen.clean["text"][0]
        absent = seen.absent()
        with replaced(model, "text", -1, lambda _, new=absent: new):
            wordless = embed(model, "text", seen.pixels, seen.ids)[0]
        blank = embed(model, "image", torch.zeros_like(seen.pixels), seen.ids)[0]
        expected = ((image - blank) @ (text - wordless) / image.norm() / text.norm()).item()
        assert abs(everything[row].sum().item() - expected) < 1e-3 * max(1, abs(expected))  # 40 points of an integral
        assert torch.equal(everything[row, len(pair.ids) :], torch.zeros_like(everything[row, len(pair.ids) :]))


@pytest.mark.parametrize("name", METHODS)
def test_the_maps_are_sums_of_the_interactions(name: str) -> None:
    model = make_model("clip")
    pairs = make_pairs(model, [4, 2])
    method, matrices = interactions(name, model, pairs)
    results = run(method, make_batch(model, pairs))
    for result, matrix, pair in zip(results, matrices, pairs, strict=True):
        words = matrix[pair.positions]
        assert relative_difference(result.image_saliency, words.sum(0).view(4, 4).numpy()) < 1e-12
        assert relative_difference(result.text_saliency, words.sum(1).numpy()) < 1e-12
        assert matrix.abs().sum() == words.abs().sum() > 0


@pytest.mark.parametrize("name", METHODS)
def test_few_passes_at_a_time_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("clip")
    pairs = make_pairs(model, [3])
    _, expected = interactions(name, model, pairs)
    monkeypatch.setattr("m2ib_lightning.methods.scorer.Scorer.at_a_time", lambda self, modality: 1)
    assert relative_difference(interactions(name, model, pairs)[1], expected) < 1e-9


def test_too_few_masks_are_refused() -> None:
    model = make_model("clip")
    pairs = make_pairs(model, [12])
    with pytest.raises(M2IBError, match=r"fixlip:samples=16 is too few for 16 players: .* 17 unknowns"):
        interactions("fixlip:samples=16", model, pairs)
    with pytest.raises(M2IBError, match=r"fixlip:captions=9 is too few for 12 players"):
        interactions("fixlip:samples=20,captions=9", model, pairs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fixlip:p=many", "p must be a number, got 'many'"),
        ("fixlip:p=1", "p must be a probability above 0 and below 1, got 1"),
        ("fixlip:samples=-1", "samples must be at least 0, got -1"),
        ("exclip:steps=0.5", "steps must be a whole number, got 0.5"),
        ("exclip:text_layer=2", "the last block's output: pooling reads one token"),
    ],
)
def test_wrong_options_are_refused(text: str, message: str) -> None:
    with pytest.raises(M2IBError, match=message):
        make_method(text, context_of(make_model("clip")))


FAST = ("Siglip2Model",)  # padded pictures and captions; the others are slow


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in MEMBERS])
def test_a_pair_has_the_same_maps_in_a_padded_batch_and_alone(name: str) -> None:
    model = wrap_model(*member(name)[:2])
    rng = np.random.default_rng(0)
    captions = ["a red circle and a blue star", "a green star"]
    pictures = [Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)) for _ in captions]
    options: dict[str, Any] = {"model": model, "dtype": torch.float64}
    for method in ("fixlip:samples=80,captions=80", "exclip:steps=1"):
        together = explain(pictures, captions, method=method, **options)
        for result, picture, caption in zip(together, pictures, captions, strict=True):
            alone = explain(picture, caption, method=method, **options)
            assert relative_difference(result.image_saliency, alone.image_saliency) < 1e-5  # softmaxes in float32
            assert relative_difference(result.text_saliency, alone.text_saliency) < 1e-5
            assert np.abs(alone.image_saliency).max() > 0


@pytest.mark.parametrize("name", METHODS)
def test_the_map_of_a_unit_is_the_sum_over_its_words(name: str) -> None:
    model = wrap_model(*member("CLIPModel")[:2])
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))
    options: dict[str, Any] = {"model": model, "method": name, "dtype": torch.float64}
    caption = "a red circle and a blue star"
    words = ground(picture, caption, units="words", **options)
    phrases = ground(picture, caption, **options)
    assert [unit.text for unit in phrases.units] == ["red circle", "blue star"]
    assert relative_difference(phrases.maps[0], words.maps[0] + words.maps[1]) < 1e-6  # maps are float32
    assert relative_difference(phrases.maps[1], words.maps[2] + words.maps[3]) < 1e-6
    every = ground(picture, caption, units=[(0, 1), (2, 12), (13, 16), (17, 18), (19, 28)], **options)
    assert relative_difference(every.maps.sum(0), every.whole.image_saliency) < 1e-6
    assert np.array_equal(phrases.whole.image_saliency, words.whole.image_saliency)
    alone = ground(picture, caption, target="alone", **options)
    assert relative_difference(alone.maps[0], phrases.maps[0]) > 0.01


@pytest.mark.parametrize("name", METHODS)
def test_a_target_takes_the_place_of_the_caption(name: str) -> None:
    """The map is linear in the target's direction."""
    model = make_model("clip").double()
    batch = make_batch(model, make_pairs(model, [3]))
    first, other = F.normalize(torch.randn(2, 1, 24, generator=torch.Generator().manual_seed(0)).double(), dim=-1)
    maps = []
    for batch.targets in (first, other, first + other):
        (result,) = run(make_method(name, context_of(model)), batch)
        assert result.text is None
        maps.append(result.image_saliency)
    assert relative_difference(maps[2] * float((first + other).norm()), maps[0] + maps[1]) < 1e-9
