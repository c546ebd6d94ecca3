"""Fine-tuning: the losses, what counts as a positive, and recall."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it

from m2ib_lightning.finetuning.losses import contrastive_loss, sigmoid_loss
from m2ib_lightning.finetuning.positives import caption_signatures, owners, picture_signatures, positives
from m2ib_lightning.finetuning.recall import recalls
from m2ib_lightning.pairs.pair import Pair
from m2ib_lightning.pairs.truth import OtherCaption, Truth
from tests.reference import clean_embeddings
from tests.tiny import make_batch, make_model, make_pairs


def normalised(count: int, width: int = 8, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)).double(), dim=-1)


def test_with_one_positive_each_the_loss_is_clips() -> None:
    image, text, scale = normalised(6), normalised(6, seed=1), torch.tensor(20.0)
    logits = scale * image @ text.T
    labels = torch.arange(6)
    expected = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    eye = torch.eye(6, dtype=torch.bool)
    found = contrastive_loss(image, text, scale, (eye, eye), (slice(0, 6), slice(0, 6)))
    assert found.item() == pytest.approx(expected.item(), abs=1e-9)


def test_with_several_positives_the_loss_is_its_definition() -> None:
    image, text, scale = normalised(4), normalised(4, seed=1), torch.tensor(5.0)
    positive = torch.eye(4, dtype=torch.bool)
    positive[0, 1] = positive[1, 0] = True
    expected = 0.0
    for logits, right in ((scale * image @ text.T, positive), (scale * text @ image.T, positive.T)):
        for row, mine in zip(logits, right, strict=True):
            others = row[~mine].exp().sum()
            expected += (
                -sum((row[p].exp() / (row[p].exp() + others)).log() for p in mine.nonzero()[:, 0]) / mine.sum() / 8
            )
    found = contrastive_loss(image, text, scale, (positive, positive.T), (slice(0, 4), slice(0, 4)))
    assert found.item() == pytest.approx(float(expected), abs=1e-9)


def test_the_ranks_parts_of_a_loss_average_to_the_whole() -> None:
    image, text, scale = normalised(6), normalised(6, seed=1), torch.tensor(5.0)
    positive = torch.eye(6, dtype=torch.bool)
    positive[0, 5] = positive[5, 0] = True
    whole = contrastive_loss(image, text, scale, (positive, positive.T), (slice(0, 6), slice(0, 6)))
    shares = [slice(k, k + 3) for k in (0, 3)]
    parts = [contrastive_loss(image, text, scale, (positive[k], positive.T[k]), (k, k)) for k in shares]
    assert sum(parts).item() / 2 == pytest.approx(whole.item(), abs=1e-12)  # type: ignore[union-attr]
    bias = torch.tensor(-3.0)
    whole = sigmoid_loss(image, text, scale, bias, positive, slice(0, 6))
    parts = [sigmoid_loss(image, text, scale, bias, positive[k], k) for k in shares]
    assert sum(parts).item() / 2 == pytest.approx(whole.item(), abs=1e-12)  # type: ignore[union-attr]


def test_the_sigmoid_loss_is_siglips() -> None:
    model = make_model("siglip").double()
    pairs = make_pairs(model, [3, 5, 2])
    batch = make_batch(model, pairs)
    ids, pixels = batch.inputs["text"]["input_ids"], batch.inputs["image"]["pixel_values"].double()
    expected = model(input_ids=ids, pixel_values=pixels, return_loss=True).loss
    image, text = (F.normalize(e, dim=-1) for e in clean_embeddings(model, pixels, ids).values())
    eye = torch.eye(3, dtype=torch.bool)
    found = sigmoid_loss(image, text, model.logit_scale.exp(), model.logit_bias, eye, slice(0, 3))
    assert found.item() == pytest.approx(expected.item(), abs=1e-9)


def test_pictures_and_captions_that_are_the_same_are_positives() -> None:
    named = [("a.png", "A star "), ("a.png", "a ring"), ("b.png", "a star"), ("c.png", "a square")]
    pairs = [Pair(str(k), str(k), image, caption) for k, (image, caption) in enumerate(named)]
    expected = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.bool)
    pictures, captions = picture_signatures(pairs), caption_signatures(pairs)
    assert torch.equal(positives(pictures, captions), expected)
    assert torch.equal(positives(pictures[1:3], captions), expected[1:3])


def test_a_caption_is_a_positive_of_each_picture_that_contains_what_it_names() -> None:
    known = [(("a", "b"), ("a",)), (("b", "c"), ("b",)), (("a", "b", "c"), ("c", "a")), ((), ())]
    pairs = [
        Pair(str(k), str(k), f"{k}.png", f"caption {k}", truth=Truth(None, None, [], contains=contains, named=named))
        for k, (contains, named) in enumerate(known)
    ]
    expected = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]], dtype=torch.bool)
    pictures, captions = picture_signatures(pairs), caption_signatures(pairs)
    assert torch.equal(positives(pictures, captions), expected)
    assert torch.equal(positives(pictures[1:3], captions), expected[1:3])


def test_recall() -> None:
    image = torch.eye(3)
    text = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    eye, both = torch.eye(3, dtype=torch.bool), torch.ones(3, 3, dtype=torch.bool)
    found = recalls(image, text, eye.__getitem__, eye.__getitem__, (1, 2, 3, 10))
    assert found["image_to_text@1"] == found["text_to_image@1"] == pytest.approx(1 / 3)
    assert found["image_to_text@3"] == 1.0
    assert "image_to_text@10" not in found
    every = recalls(image, text, both.__getitem__, both.__getitem__, (1,))
    assert every == {"image_to_text@1": 1.0, "text_to_image@1": 1.0}


def with_others() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Four pictures, eight captions of which the last four are others: true of one, of two, and of none."""
    positive = torch.cat([torch.eye(4), torch.zeros(4, 4)], dim=1).bool()
    positive[0, 4] = positive[1, 5] = positive[2, 5] = True
    return normalised(4), normalised(8, seed=1), torch.tensor(5.0), positive


def test_a_caption_that_is_true_of_nothing_is_in_the_pictures_denominators_alone() -> None:
    image, text, scale, positive = with_others()
    logits = scale * image @ text.T
    of_pictures, of_captions = [], []
    for i in range(4):
        wrong = logits[i, ~positive[i]].exp().sum()
        right = logits[i, positive[i]].exp()
        of_pictures.append(-(right / (right + wrong)).log().mean())
    for j in range(6):  # the last two have no picture
        wrong = logits[~positive[:, j], j].exp().sum()
        right = logits[positive[:, j], j].exp()
        of_captions.append(-(right / (right + wrong)).log().mean())
    expected = (torch.stack(of_pictures).mean() + torch.stack(of_captions).mean()) / 2
    every, answered = (slice(0, 4), slice(0, 8)), positive.any(0).sum()
    found = contrastive_loss(image, text, scale, (positive, positive.T), every, answered)
    assert found.item() == pytest.approx(expected.item(), abs=1e-9)


def test_ranks_with_unequal_numbers_of_answered_captions_average_to_the_whole() -> None:
    image, text, scale, positive = with_others()
    # As ranks gather them: the first rank's own and other captions, then the second's
    order = [0, 1, 4, 5, 2, 3, 6, 7]
    text, positive = text[order], positive[:, order]
    answered = [positive[:, k : k + 4].any(0).sum() for k in (0, 4)]
    assert answered[0] != answered[1]
    whole = contrastive_loss(
        image, text, scale, (positive, positive.T), (slice(0, 4), slice(0, 8)), positive.any(0).sum()
    )
    parts = [
        contrastive_loss(
            image,
            text,
            scale,
            (positive[own], positive.T[mine]),
            (own, mine),
            torch.stack(answered).float().mean(),
        )
        for own, mine in ((slice(0, 2), slice(0, 4)), (slice(2, 4), slice(4, 8)))
    ]
    assert sum(parts).item() / 2 == pytest.approx(whole.item(), abs=1e-9)  # type: ignore[union-attr]


def test_other_captions_follow_the_pairs_own_in_their_order() -> None:
    pairs = []
    for k in range(2):
        others = [OtherCaption("course", f"other {k}.{n}", named=(f"thing {n}",)) for n in range(3)]
        truth = Truth(None, None, others, contains=("thing 1",))
        pairs.append(Pair(str(k), str(k), f"{k}.png", f"own {k}", truth=truth))
    pictures, captions = picture_signatures(pairs), caption_signatures(pairs, 2)
    assert owners(2, 6).tolist() == [0, 1, 0, 0, 1, 1]
    # own 0, own 1, other 0.0, 0.1, 1.0, 1.1: thing 1 is in both pictures, thing 0 in none
    expected = torch.tensor([[1, 0, 0, 1, 0, 1], [0, 1, 0, 1, 0, 1]], dtype=torch.bool)
    assert torch.equal(positives(pictures, captions), expected)
