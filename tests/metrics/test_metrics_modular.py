"""The metric classes are means of the functions over batches, in collections, and on several processes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from m2ib_lightning import metrics
from m2ib_lightning.errors import M2IBError

SIZES = [(4, 4), (3, 6), (5, 2), (4, 4), (7, 3)]  # of the maps of five pairs


def the_pairs() -> dict[str, list[Tensor]]:
    """Five pairs with every input of a metric; the third and the fifth target are empty."""
    draw = torch.Generator().manual_seed(0)

    def maps(*front: int) -> list[Tensor]:
        return [torch.randn(*front, *size, generator=draw) for size in SIZES]

    targets = [saliency > 0.5 for saliency in maps()]
    targets[2][:] = targets[4][:] = False
    return {
        "saliency": maps(),
        "target": targets,
        "heatmap": [saliency.sigmoid() for saliency in maps()],
        "reseeded": maps(),
        "randomised": maps(),
        "prompted": maps(),
        "perturbed": maps(3),
        "clean": list(torch.rand(5, generator=draw) + 1),
        "masked": list(torch.rand(5, generator=draw) + 1),
        "empty": list(torch.rand(5, generator=draw)),
        "scores": list(torch.rand(5, 6, generator=draw)),
    }


CASES: list[tuple[metrics.PairMean, Callable[..., Tensor], list[str], bool | None]] = [
    (metrics.PointingGame(), metrics.pointing_game, ["saliency", "target"], True),
    (metrics.PointingGame(2), lambda a, m: metrics.pointing_game(a, m, 2), ["saliency", "target"], True),
    (metrics.MassAccuracy(), metrics.mass_accuracy, ["saliency", "target"], True),
    (metrics.RankAccuracy(), metrics.rank_accuracy, ["saliency", "target"], True),
    (metrics.IoU(), metrics.iou, ["saliency", "target"], True),
    (metrics.IoU(0.2), lambda a, m: metrics.iou(a, m, 0.2), ["saliency", "target"], True),
    (metrics.BestIoU(), metrics.best_iou, ["saliency", "target"], True),
    (metrics.MapAUROC(), metrics.auroc, ["saliency", "target"], True),
    (metrics.MapAveragePrecision(), metrics.average_precision, ["saliency", "target"], True),
    (metrics.ConfidenceDrop(), metrics.confidence_drop, ["clean", "masked"], False),
    (metrics.ConfidenceIncrease(), metrics.confidence_increase, ["clean", "masked"], True),
    (metrics.MapMass(), metrics.map_mass, ["heatmap"], None),
    (metrics.Sparseness(), metrics.sparseness, ["saliency"], True),
    (metrics.Complexity(), metrics.complexity, ["saliency"], False),
    (metrics.InsertionArea(), metrics.area_under, ["scores"], True),
    (metrics.DeletionArea(), metrics.area_under, ["scores"], False),
    (metrics.InsertionArea(normalised=True), metrics.normalised_area, ["scores", "clean", "empty"], True),
    (metrics.DeletionArea(normalised=True), metrics.normalised_area, ["scores", "clean", "empty"], False),
    (metrics.SeedStability(), metrics.spearman, ["saliency", "reseeded"], True),
    (metrics.RandomisationCorrelation(), metrics.spearman, ["saliency", "randomised"], False),
    (metrics.PromptCorrelation(), metrics.spearman, ["saliency", "prompted"], False),
    (metrics.MaxSensitivity(), metrics.max_sensitivity, ["saliency", "perturbed"], False),
]
NAMES = [f"{type(case[0]).__name__}-{number}" for number, case in enumerate(CASES)]


@pytest.fixture
def pairs() -> dict[str, list[Tensor]]:
    return the_pairs()


def test_every_class_is_tested() -> None:
    exported = {value for value in vars(metrics).values() if isinstance(value, type) and issubclass(value, Metric)}
    tried = {type(case[0]) for case in CASES}
    assert exported - tried == {metrics.PairMean, metrics.CurveArea, metrics.MatchedAUC}
    assert all(name in vars(metrics) for name in metrics.__all__)


@pytest.mark.parametrize(("metric", "score", "parts", "higher"), CASES, ids=NAMES)
def test_the_mean_over_batches_is_that_of_the_function(
    metric: metrics.PairMean, score: Callable[..., Tensor], parts: list[str], higher: bool | None, pairs: dict[str, Any]
) -> None:
    metric.reset()
    each = torch.stack([score(*(pairs[part][i] for part in parts)) for i in range(5)])
    missing = each.isnan()
    for rows in (slice(0, 1), slice(1, 5)):
        metric.update(**{part: pairs[part][rows] for part in parts})
    assert metric.compute().dtype == torch.float64
    assert metric.compute().item() == pytest.approx(each[~missing].mean().item(), abs=1e-12)
    assert [metric.count.item(), metric.left_out.item()] == [(~missing).sum().item(), missing.sum().item()]
    assert metric.left_out.item() == (2 if "target" in parts else 0)
    assert metric.higher_is_better is higher
    assert (metric.is_differentiable, metric.full_state_update) == (False, False)


def test_a_batched_tensor_is_a_list_of_pairs() -> None:
    draw = torch.Generator().manual_seed(1)
    saliency, target = torch.randn(6, 5, 5, generator=draw), torch.rand(6, 5, 5, generator=draw) > 0.5
    batched, listed = metrics.MapAUROC(), metrics.MapAUROC()
    batched.update(saliency, target)
    listed.update(list(saliency), list(target))
    assert batched.compute() == listed.compute()
    assert batched.count == 6


def test_forward_returns_the_batch_mean_and_adds_the_batch() -> None:
    drop = metrics.ConfidenceDrop()
    assert drop(torch.tensor([0.5]), torch.tensor([0.25])).item() == 0.25
    assert drop(torch.tensor([0.5, 0.5, 0.5]), torch.ones(3)).item() == 0
    assert drop.compute().item() == 0.25 / 4


def test_without_a_score_the_mean_is_nan() -> None:
    metric = metrics.IoU()
    metric.update([], [])
    assert metric.compute().isnan()
    metric.update([torch.rand(3)], [torch.zeros(3, dtype=torch.bool)])
    assert metric.compute().isnan()
    assert (metric.count, metric.left_out) == (0, 1)


def test_many_small_scores_are_not_lost() -> None:
    """In float32 the sum would stop at 2^24."""
    metric = metrics.ConfidenceIncrease()
    metric.total += 2**24
    metric.count += 2**24
    for _ in range(3):
        metric.update(torch.zeros(1), torch.ones(1))
    assert metric.compute() == 1


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(M2IBError, match="all parts must have the same number of pairs, got saliency 2, target 1"):
        metrics.IoU().update([torch.rand(3)] * 2, [torch.ones(3, dtype=torch.bool)])
    with pytest.raises(
        M2IBError, match=r"clean, masked must be a list of tensors or a tensor \(B, \.\.\.\), got a single number"
    ):
        metrics.ConfidenceDrop().update(torch.tensor(0.5), torch.tensor(0.5))
    with pytest.raises(M2IBError, match="needs the scores `clean` and `empty` of every pair"):
        metrics.InsertionArea(normalised=True).update(torch.rand(2, 5), clean=torch.ones(2))


def test_a_collection_does_not_merge_metrics_that_agree_on_the_first_batch() -> None:
    """``MetricCollection`` merges metrics with equal states: here all are 1 for the first pair."""
    singles = {
        "iou": metrics.IoU(),
        "best": metrics.BestIoU(),
        "near": metrics.PointingGame(1),
        "at": metrics.PointingGame(),
    }
    collection = MetricCollection({name: metric.clone() for name, metric in singles.items()})
    target = torch.eye(4) > 0
    for saliency in (target.float(), torch.eye(4).roll(1, 0) - torch.arange(4) / 10):
        collection.update(saliency=[saliency], target=[target])
        for metric in singles.values():
            metric.update([saliency], [target])
    alone = {name: metric.compute() for name, metric in singles.items()}
    assert collection.compute() == alone
    assert alone["near"] > alone["at"]
    assert alone["best"] > alone["iou"]


def test_a_collection_passes_each_metric_its_inputs(pairs: dict[str, Any]) -> None:
    collection = MetricCollection({name: case[0].clone() for name, case in zip(NAMES, CASES, strict=True)})
    collection.reset()
    collection.update(**pairs)
    for name, (_, score, parts, _) in zip(NAMES, CASES, strict=True):
        each = torch.stack([score(*(pairs[part][i] for part in parts)) for i in range(5)])
        assert collection.compute()[name].item() == pytest.approx(each.nanmean().item(), abs=1e-12), name


def test_matched_auc_keeps_all_losses_but_nan() -> None:
    metric = metrics.MatchedAUC()
    metric.update(torch.tensor([0.1, math.nan]), torch.tensor([0.3]))
    metric.update(torch.zeros(0), torch.tensor([0.05, 0.1, 0.2]))
    assert metric.compute().item() == (1 + 0 + 0.5 + 1) / 4
    assert metric.left_out == 1
    metric.reset()
    metric.update(torch.tensor([0.1]), torch.zeros(0))
    assert metric.compute().isnan()


MATCHED, SHUFFLED = torch.tensor([0.1, 0.4, 0.2, 0.3, math.nan]), torch.tensor([0.2, 0.5, 0.25])


def test_merged_states_give_the_numbers_of_one_process(pairs: dict[str, Any]) -> None:
    for name, (metric, _, parts, _) in zip(NAMES, CASES, strict=True):
        whole, first, second = (metric.clone() for _ in range(3))
        for each, rows in ((whole, slice(0, 5)), (first, slice(0, 4)), (second, slice(4, 5))):
            each.reset()
            each.update(**{part: pairs[part][rows] for part in parts})
        first.merge_state(second)
        assert first.compute().item() == pytest.approx(whole.compute().item(), abs=1e-12), name
        assert (first.count, first.left_out) == (whole.count, whole.left_out), name
    whole, first, second = (metrics.MatchedAUC() for _ in range(3))
    whole.update(MATCHED, SHUFFLED)
    first.update(MATCHED[:2], SHUFFLED[:1])
    second.update(MATCHED[2:], SHUFFLED[1:])
    first.merge_state(second)
    assert first.compute() == whole.compute()
    assert first.left_out == whole.left_out == 1


def in_two(rank: int, folder: Path) -> None:
    """One of two processes: four pairs in the first, one in the second, whose target is empty."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    pairs, rows = the_pairs(), slice(0, 4) if rank == 0 else slice(4, 5)
    values: dict[str, Any] = {}
    for name, (metric, _, parts, _) in zip(NAMES, CASES, strict=True):
        metric.update(**{part: pairs[part][rows] for part in parts})
        values[name] = metric.compute().item()
        with metric.sync_context():
            values[f"{name} left out"] = metric.left_out.item()
    split, lonely = metrics.MatchedAUC(), metrics.MatchedAUC()
    split.update(*((MATCHED[:2], SHUFFLED[:1]) if rank == 0 else (MATCHED[2:], SHUFFLED[1:])))
    if rank == 0:
        lonely.update(MATCHED, SHUFFLED)
    values |= {"split": split.compute().item(), "lonely": lonely.compute().item()}
    torch.save(values, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(tmp_path: Path, pairs: dict[str, Any]) -> None:
    mp.spawn(in_two, args=(tmp_path,), nprocs=2)
    expected: dict[str, Any] = {}
    for name, (metric, _, parts, _) in zip(NAMES, CASES, strict=True):
        metric.reset()
        metric.update(**{part: pairs[part] for part in parts})
        expected |= {name: metric.compute().item(), f"{name} left out": metric.left_out.item()}
    alone = metrics.MatchedAUC()
    alone.update(MATCHED, SHUFFLED)
    expected |= dict.fromkeys(("split", "lonely"), alone.compute().item())
    for rank in (0, 1):
        assert torch.load(tmp_path / f"{rank}.pt") == pytest.approx(expected, abs=1e-6)
