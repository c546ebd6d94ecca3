"""Faithfulness measures against loops over single passes of the untouched model."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it

from m2ib_lightning import load_model
from m2ib_lightning.encoder.towers import Encoder
from m2ib_lightning.evaluation.faithfulness import Faithfulness, blur
from m2ib_lightning.methods.scorer import Scorer
from m2ib_lightning.pairs.pair import PairBatch
from m2ib_lightning.results.attribution import Attribution, TowerAttribution
from tests.method_references import OnePair
from tests.tiny import make_batch, make_model, make_pairs

CPU = torch.device("cpu")
LENGTHS = [3, 7, 1]


class Setting:
    """A random model, pairs, and random maps of the pairs."""

    def __init__(self, family: str, lengths: list[int] | None = None) -> None:
        self.model: Any = make_model(family).double()
        self.pairs = make_pairs(self.model, lengths or LENGTHS)
        self.batch = make_batch(self.model, self.pairs)
        rng = np.random.default_rng(0)
        self.results = [
            Attribution(
                pair,
                image=TowerAttribution(rng.normal(size=(4, 4)).astype(np.float32)),
                text=TowerAttribution(rng.normal(size=len(pair.token_positions)).astype(np.float32)),
            )
            for pair in self.batch.pairs
        ]
        self.preparer: Any = _Pads(self.model)

    def measured(self, group: str, results: list[Attribution] | None = None) -> dict[str, list[float]]:
        scorer = Scorer(Encoder(self.model))
        faithfulness = Faithfulness(scorer, self.preparer)
        with scorer.at_work(CPU, torch.float64):
            scores: dict[str, list[float]] = getattr(faithfulness, group)(
                self.batch, scorer.clean(self.batch), results or self.results
            )
        return scores

    def seen(self, index: int) -> OnePair:
        pair = self.pairs[index]
        return OnePair(self.model, pair.pixels[None].double(), torch.tensor([pair.ids]), pair.positions)

    def clean(self, index: int) -> float:
        seen = self.seen(index)
        return seen.picture(seen.pixels).item()


class _Pads:
    """The padding of a preparer, with the end of text or as SigLIP does."""

    def __init__(self, model: Any) -> None:
        self.siglip = model.config.model_type == "siglip"
        self.fill = 1 if self.siglip else model.config.text_config.eos_token_id

    def pad(self, captions: list[list[int]]) -> dict[str, torch.Tensor]:
        longest = 16 if self.siglip else max(map(len, captions))
        return {"input_ids": torch.tensor([ids + [self.fill] * (longest - len(ids)) for ids in captions])}


def cosine_of_words(seen: OnePair, keep: list[bool]) -> float:
    """The cosine of the caption with only the words to keep."""
    removed = [place for place, stays in zip(seen.places, keep, strict=True) if not stays]
    ids = [token for place, token in enumerate(seen.ids[0].tolist()) if place not in removed]
    if seen.prefix == 0:
        ids += [1] * (16 - len(ids))
    embedding = seen.model.get_text_features(input_ids=torch.tensor([ids])).pooler_output
    return seen.cosine("text", embedding).item()


def area(values: list[float]) -> float:
    """The area under a curve by trapezoids."""
    return sum((a + b) / 2 for a, b in itertools.pairwise(values)) / (len(values) - 1)


@pytest.mark.parametrize("family", ["clip", "siglip"])
@torch.no_grad()
def test_confidence_is_its_definition(family: str) -> None:
    setting = Setting(family)
    found = setting.measured("confidence")
    for index, result in enumerate(setting.results):
        seen = setting.seen(index)
        large = F.interpolate(torch.from_numpy(result.image_saliency)[None, None].double(), (32, 32), mode="bilinear")[
            0
        ]
        heat = (large - large.min()) / (large.max() - large.min())
        change = seen.picture(seen.pixels * heat).item() - setting.clean(index)
        assert found["image_drop"][index] == pytest.approx(max(0, -change), abs=1e-7)
        assert found["image_increase"][index] == float(change > 0)
        assert found["image_map_mass"][index] == pytest.approx(heat.mean().item(), abs=1e-7)
        if len(seen.places) == 1:  # the heatmap of one word is constant
            assert np.isnan(found["text_drop"][index])
            assert np.isnan(found["text_increase"][index])
            continue
        z, absent = seen.states("text", -1).clone(), seen.absent()
        for word, place in enumerate(seen.places):
            keep = float(result.text_heatmap[word])
            z[0, place] = keep * z[0, place] + (1 - keep) * absent[0, place]
        change = seen.hidden("text", -1, z).item() - setting.clean(index)
        assert found["text_drop"][index] == pytest.approx(max(0, -change), abs=1e-6)
        assert found["text_increase"][index] == float(change > 0)
        assert found["text_map_mass"][index] == pytest.approx(float(result.text_heatmap.mean()))


@pytest.mark.parametrize("family", ["clip", "siglip"])
@torch.no_grad()
def test_curves_are_their_definition(family: str) -> None:
    setting = Setting(family)
    found = setting.measured("curves")
    for index, result in enumerate(setting.results):
        seen = setting.seen(index)
        order = np.argsort(-result.image_saliency.ravel())  # no two are equal
        blurred = blur(seen.pixels, 8.0)
        inserted, deleted = blurred.clone(), seen.pixels.clone()
        insertion, deletion = [seen.picture(inserted).item()], [seen.picture(deleted).item()]
        for patch in order:  # 16 patches, one by one
            rows, columns = (slice(8 * k, 8 * k + 8) for k in divmod(int(patch), 4))
            inserted[..., rows, columns] = seen.pixels[..., rows, columns]
            deleted[..., rows, columns] = 0
            insertion.append(seen.picture(inserted).item())
            deletion.append(seen.picture(deleted).item())
        assert found["image_insertion_raw"][index] == pytest.approx(area(insertion), abs=1e-7)
        assert found["image_deletion_raw"][index] == pytest.approx(area(deletion), abs=1e-7)
        assert_normalised(found["image_insertion"][index], area(insertion), insertion[-1], insertion[0])
        assert_normalised(found["image_deletion"][index], area(deletion), deletion[0], deletion[-1])
        words = np.argsort(-result.text_saliency)
        insertion, deletion = [], []
        for count in range(len(words) + 1):
            highest = set(words[:count].tolist())
            insertion.append(cosine_of_words(seen, [word in highest for word in range(len(words))]))
            deletion.append(cosine_of_words(seen, [word not in highest for word in range(len(words))]))
        assert found["text_insertion_raw"][index] == pytest.approx(area(insertion), abs=1e-7)
        assert found["text_deletion_raw"][index] == pytest.approx(area(deletion), abs=1e-7)
        assert_normalised(found["text_deletion"][index], area(deletion), deletion[0], deletion[-1])


def assert_normalised(actual: float, raw: float, clean: float, empty: float) -> None:
    if clean - empty < 0.05:
        assert np.isnan(actual)
    else:
        assert actual == pytest.approx((raw - empty) / (clean - empty), abs=1e-6)


@torch.no_grad()
def test_the_published_codes_behaviour_is_reproduced() -> None:
    setting = Setting("clip-legacy")
    found = setting.measured("reference")
    for index, result in enumerate(setting.results):
        seen = setting.seen(index)
        large = F.interpolate(torch.from_numpy(result.image_saliency)[None, None].double(), (32, 32), mode="bilinear")[
            0, 0
        ]
        heat = (large - large.min()) / (large.max() - large.min())
        masked = torch.from_numpy(seen.pixels[0].numpy() * heat.numpy()[0])[None]  # numpy repeats the one row
        change = seen.picture(masked).item() - setting.clean(index)
        assert found["reference_image_drop"][index] == pytest.approx(100 * max(0, -change), abs=1e-5)
        assert found["reference_image_increase"][index] == 100 * (change > 0)
        ids = seen.ids[0, seen.places]
        heat = torch.from_numpy(result.text_heatmap)
        masked_ids = ids * (heat > np.percentile(heat.numpy(), 50))
        before, after = (
            seen.cosine("text", seen.model.get_text_features(input_ids=words[None]).pooler_output).item()
            for words in (ids, masked_ids)
        )
        assert found["reference_text_drop"][index] == pytest.approx(100 * max(0, before - after), abs=1e-5)


def test_only_the_published_code_ignores_all_rows_but_the_first() -> None:
    """Two maps with the same first row score the same in the published code, but not in ours."""
    setting = Setting("clip")
    maps = [result.image_saliency.copy() for result in setting.results]
    for saliency in maps:
        saliency[0, 0], saliency[0, 3] = -10, 10  # the first row's corners set the scale
    turned = [np.concatenate([saliency[:2], saliency[:1:-1]]) for saliency in maps]
    one, other = (
        [replace(r, image=TowerAttribution(saliency)) for r, saliency in zip(setting.results, chosen, strict=True)]
        for chosen in (maps, turned)
    )
    name = "reference_image_drop"
    assert setting.measured("reference", one)[name] == setting.measured("reference", other)[name]
    changes = [setting.measured("curves", results)["image_deletion_raw"] for results in (one, other)]
    assert changes[0] != changes[1]
    drops = [setting.measured("confidence", results)["image_drop"] for results in (one, other)]
    assert drops[0] != drops[1]


def test_nothing_removed_gives_the_clean_embeddings() -> None:
    setting = Setting("clip")
    scorer = Scorer(Encoder(setting.model))
    with scorer.at_work(CPU, torch.float64), torch.no_grad():
        words, clean = scorer.words(setting.batch), scorer.clean(setting.batch)
        ones = torch.ones(words.words.shape)
        embedded = scorer.captions(words.keep(ones), words.hidden.layout)
        pixels = scorer.images(scorer.pixels(setting.batch) * 1)
    assert torch.allclose(embedded, clean.embeddings["text"], atol=1e-12)
    assert torch.allclose(pixels, clean.embeddings["image"], atol=1e-12)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_neighbours_and_padding_do_not_matter(family: str) -> None:
    setting = Setting(family)
    together = {group: setting.measured(group) for group in ("confidence", "curves", "reference")}
    for index in range(3):
        alone = Setting(family)
        alone.batch, alone.results = make_batch(setting.model, [setting.pairs[index]]), [setting.results[index]]
        for group, found in together.items():
            for name, values in alone.measured(group).items():
                assert values[0] == pytest.approx(found[name][index], abs=1e-7, nan_ok=True), name


def test_a_blur_keeps_a_flat_picture_and_spreads_a_point() -> None:
    flat = torch.full((1, 3, 16, 16), 0.3, dtype=torch.float64)
    assert torch.allclose(blur(flat, 2.0), flat)
    point = torch.zeros(1, 3, 33, 33, dtype=torch.float64)
    point[..., 16, 16] = 1
    spread = blur(point, 2.0)[0, 0]
    assert spread.sum() == pytest.approx(1)
    assert spread[16, 16] == spread.max()
    assert spread[16, 18] / spread[16, 16] == pytest.approx(np.exp(-0.5))


def test_special_tokens_stay_with_a_real_tokenizer() -> None:
    model = load_model("scenes")
    from m2ib_lightning.pairs.pair import RawPair

    items = [
        model.preparer.prepare(RawPair("k", np.zeros((64, 64, 3), np.uint8), "u", "a red circle"), keep_picture=False)
    ]
    batch: PairBatch = model.preparer.collate(items)
    result = Attribution(
        batch.pairs[0],
        image=TowerAttribution(np.arange(64, dtype=np.float32).reshape(8, 8)),
        text=TowerAttribution(np.array([0.0, 2.0, 1.0], np.float32)),
    )
    scorer = Scorer(model.encoder)
    with scorer.at_work(CPU, torch.float32):
        found = Faithfulness(scorer, model.preparer).curves(batch, scorer.clean(batch), [result])
        tokenizer = model.processor.tokenizer
        values = []
        for caption in ("", "red", "red circle", "a red circle"):
            ids = tokenizer(caption, return_tensors="pt")["input_ids"]
            text = model.encoder.model.get_text_features(input_ids=ids).pooler_output
            image = model.encoder.model.get_image_features(pixel_values=batch.inputs["image"]["pixel_values"])
            values.append(F.cosine_similarity(text, image.pooler_output).item())
    assert found["text_insertion_raw"][0] == pytest.approx(area(values), abs=1e-5)


def test_constant_maps_get_no_confidence_and_curves_in_random_order() -> None:
    """Ties come in a random order, not from the top left or from the first word."""
    setting = Setting("clip", [6])
    flat = [
        replace(
            result,
            image=TowerAttribution(np.zeros((4, 4), np.float32)),
            text=TowerAttribution(np.zeros(6, np.float32)),
        )
        for result in setting.results
    ]
    confidence = setting.measured("confidence", flat)
    for name in ("image_drop", "image_increase", "text_drop", "text_increase"):
        assert np.isnan(confidence[name][0])
    found = setting.measured("curves", flat)["image_deletion_raw"][0]
    raster = [
        replace(flat[0], image=TowerAttribution(-np.arange(16, dtype=np.float32).reshape(4, 4)))  # reading order
    ]
    assert found != pytest.approx(setting.measured("curves", raster)["image_deletion_raw"][0], abs=1e-6)
