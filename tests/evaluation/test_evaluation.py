"""``task=evaluate``: its files and messages, and the same scores on any ranks and after interruptions."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from m2ib_lightning.cli import main
from m2ib_lightning.config import Config
from m2ib_lightning.evaluation import load_scores
from m2ib_lightning.evaluation.measures import DEFAULT_GROUPS, MEASURES
from m2ib_lightning.methods import METHODS
from m2ib_lightning.metrics import area_under
from m2ib_lightning.run.loggers.curve_tags import clean_tag
from tests import ROOT
from tests.logged import csv_of, events_of, hyperparameters_of, scalars_of
from tests.run.pages import PageReader, decoded

M2IB = "m2ib:steps=1,noise_samples=1"
FAST = f'["{M2IB}", saliency, random, centre]'
QUIET = ["task=evaluate", "trainer.enable_progress_bar=false", "evaluate.resamples=50"]
SMALL = [*QUIET, f"evaluate.methods={FAST}", "evaluate.baseline=saliency", "evaluate.pictures=1"]
PAIRS = 3
SMALL += ["trainer.precision=64-true"]  # rank measures jump where two nearly equal pixels change places


def run(*words: str) -> int:
    return main([*SMALL, *words])


def sorted_scores(folder: Path) -> Any:
    scores = load_scores(folder)
    scores = scores[scores["measure"] != "seconds"]
    return scores.sort_values(["key", "method", "seed", "measure"]).reset_index(drop=True)


def assert_same_scores(one: Path, other: Path, tolerance: float = 1e-6) -> None:
    """A curve's area is divided by a difference of cosines, of at least 0.05, so it has 20 times their rounding."""
    first, second = sorted_scores(one), sorted_scores(other)
    columns = ["key", "method", "seed", "measure"]
    pd.testing.assert_frame_equal(first[columns], second[columns])
    assert np.allclose(first["value"], second["value"], rtol=0, atol=tolerance, equal_nan=True)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    words = ["evaluate.probed=2", "evaluate.seeds=2", "trainer.logger=[tensorboard,csv]"]
    assert run(f"data.limit={PAIRS}", *words, f"output_dir={folder}") == 0
    return folder


def test_every_measure_of_every_method_is_written(done: Path) -> None:
    scores = load_scores(done)
    assert list(scores["key"].unique()) == [f"scenes-0:{index}" for index in range(PAIRS)]
    measures = set(scores["measure"])
    expected = {name for name, m in MEASURES.items() if m.group in (*DEFAULT_GROUPS, "time")}
    probes = {"image_randomised", "text_randomised", "matched_auc"}  # derived from stages, and from losses
    assert expected - probes <= measures
    assert {"image_randomised_100", "text_randomised_17", "loss_matched", "loss_shuffled"} <= measures
    main_seed = scores[(scores["seed"] == 0) & (scores["measure"] == "image_pointing")]
    assert main_seed.groupby("method").size().to_dict() == {m: PAIRS for m in main_seed["method"].unique()}
    assert len(main_seed["method"].unique()) == 4
    second = scores[scores["seed"] == 1]
    assert set(second["key"]) == {"scenes-0:0", "scenes-0:1"}  # the probed pairs
    assert set(second["method"]) == {M2IB, "random"}  # the random methods


def test_the_summary_is_json_with_means_intervals_and_differences(done: Path) -> None:
    summary = json.loads((done / "summary.json").read_text(), parse_constant=lambda text: pytest.fail(text))
    assert summary["pairs_done"] == PAIRS
    m2ib = summary["methods"][M2IB]
    assert m2ib["image_auroc"]["low"] <= m2ib["image_auroc"]["mean"] <= m2ib["image_auroc"]["high"]
    assert m2ib["image_auroc"]["pairs"] == PAIRS
    assert "minus_saliency" in m2ib["image_auroc"]
    assert "minus_saliency" not in summary["methods"]["saliency"]["image_auroc"]
    assert list(summary["cascade"]["image"]["saliency"]) == ["17", "33", "50", "67", "83", "100"]
    scores = load_scores(done)
    chosen = scores[(scores["measure"] == "image_mass") & (scores["method"] == "saliency")]["value"]
    assert summary["methods"]["saliency"]["image_mass"]["mean"] == pytest.approx(chosen.mean())


def test_the_curves_are_kept_and_their_ends_are_the_whole_pair(done: Path) -> None:
    curves = json.loads((done / "summary.json").read_text())["curves"]
    assert list(curves) == ["image_insertion", "image_deletion", "text_insertion", "text_deletion"]
    whole = curves["image_deletion"]["saliency"]["0"]["mean"]
    for method in (M2IB, "saliency", "random", "centre"):
        assert list(curves["image_insertion"][method]) == [str(percent) for percent in range(0, 101, 10)]
        assert curves["image_insertion"][method]["100"]["mean"] == pytest.approx(whole, abs=1e-6)
        assert curves["text_deletion"][method]["0"]["mean"] == pytest.approx(whole, abs=1e-6)
    scores = load_scores(done)
    area = scores[(scores["measure"] == "image_deletion_raw") & (scores["method"] == "centre") & (scores["seed"] == 0)]
    means = [point["mean"] for point in curves["image_deletion"]["centre"].values()]
    kept = float(area_under(torch.tensor(means)))
    assert kept == pytest.approx(area["value"].mean(), abs=0.01)  # 11 points stand for 17


def test_the_maps_of_all_methods_of_a_drawn_pair_are_on_the_page(done: Path) -> None:
    (row,) = [row for row in PageReader(done / "report.html").rows if "panels" in row]
    assert [panel["name"] for panel in row["panels"]] == [M2IB, "saliency", "random", "centre"]
    scores = load_scores(done)
    scores = scores[(scores["key"] == row["key"]) & (scores["measure"] == "image_pointing") & (scores["seed"] == 0)]
    pointing = dict(zip(scores["method"], scores["value"], strict=True))
    for panel in row["panels"]:
        assert panel["hit"] == (pointing[panel["name"]] >= 0.5)
        assert len(decoded(panel["map"])) == panel["grid"][0] * panel["grid"][1]
        assert 2 * len(decoded(panel["words"])) == len(panel["offsets"])
    assert [panel.get("unit") for panel in row["panels"]] == ["nats", None, None, None]
    assert row["thumb"].startswith("data:image/jpeg")
    assert row["truth"][:2] == [64, 64]
    assert set(PageReader(done / "report.html").head["ranges"]) >= {"map of saliency", f"words of {M2IB}"}


def test_controls_ignore_the_pair(done: Path) -> None:
    """The map of a control does not change with the weights, nor with the caption."""
    methods = json.loads((done / "summary.json").read_text())["methods"]
    for name in ("random", "centre"):
        for measure in ("image_randomised", "prompt_present", "prompt_gibberish"):
            assert methods[name][measure]["mean"] == pytest.approx(1)
        assert methods[name]["image_sensitivity"]["mean"] == 0
    assert abs(methods["random"]["image_seeds"]["mean"]) < 0.4  # 64 patches, two pairs: four standard errors
    assert methods["centre"].get("image_seeds") is None
    assert "matched_auc" not in methods["saliency"]


def test_the_table_and_the_page_show_the_comparison(done: Path) -> None:
    table = (done / "table.md").read_text()
    for name in (M2IB, "saliency", "random", "centre"):
        assert f"| {name} |" in table
    assert table.count("\n### ") == len(DEFAULT_GROUPS) + 1  # and the time
    page = PageReader(done / "report.html")
    measures = {measure["name"]: measure for measure in page.head["comparison"]["measures"]}
    assert measures["image_pointing"]["better"] == "higher"
    summary = json.loads((done / "summary.json").read_text())
    mean = summary["methods"]["saliency"]["image_mass"]["mean"]
    assert measures["image_mass"]["values"]["saliency"]["ends"][0] == pytest.approx(mean, rel=1e-5)
    assert set(page.head["comparison"]["cascade"]) == set(summary["cascade"])
    assert sum("drawing" in row for row in page.rows) == 1
    assert page.head["comparison"]["curves"]["text_deletion"].keys() == summary["curves"]["text_deletion"].keys()
    assert all(row["scores"] for row in page.rows)
    assert main(["report", str(done)]) == 0
    again = PageReader(done / "report.html")
    assert (again.rows, again.head["comparison"]) == (page.rows, page.head["comparison"])
    (picture,) = (done / "heatmaps").glob("*.png")
    with Image.open(picture) as image:
        assert image.width > 300


def test_the_loggers_have_the_means_of_the_table(done: Path) -> None:
    scalars, summary = scalars_of(done), json.loads((done / "summary.json").read_text())
    means = {
        clean_tag(f"evaluation/{measure}/{method}"): [(PAIRS, pytest.approx(estimate["mean"]))]
        for method, by_measure in summary["methods"].items()
        for measure, estimate in by_measure.items()
        if estimate["mean"] is not None and np.isfinite(estimate["mean"])
    }
    assert {"evaluation/image_mass/centre", "evaluation/text_auroc/m2ib_steps_1_noise_samples_1"} <= set(means)
    assert {tag: values for tag, values in scalars.items() if tag.startswith("evaluation/")} == means
    assert scalars["summary/pairs_done"] == [(PAIRS, PAIRS)]
    assert not any(tag.startswith("summary/mean_") for tag in scalars)
    assert set(csv_of(done)) == set(scalars)
    (text,) = events_of(done).Tensors("evaluation/table/text_summary")
    assert text.tensor_proto.string_val[0].decode() in (done / "table.md").read_text()
    assert hyperparameters_of(done)["task"] == "evaluate"


def test_the_document_has_the_form_of_a_regenerated_table(done: Path) -> None:
    """Nothing in docs/evaluation.md's tables is typed by hand."""
    document = (ROOT / "docs" / "evaluation.md").read_text()
    fresh = (done / "table.md").read_text()

    def heads(text: str) -> list[str]:
        return re.findall(r"^\| method \|.*$", text, flags=re.MULTILINE)

    def legends(text: str) -> list[str]:
        return [
            line.split(" (")[0] for line in re.findall(r"^- ((?:image|text|prompt|matched) .*)$", text, re.MULTILINE)
        ]

    written = document[document.index("<!-- table:begin -->") : document.index("<!-- table:end -->")]
    assert heads(written) == heads(fresh)
    assert legends(written) == legends(fresh)
    rows = re.findall(r"^\| (\w+) \|", written, flags=re.MULTILINE)
    assert set(METHODS) - {"readout"} <= set(rows)


@pytest.mark.slow
def test_a_resumed_run_has_the_scores_of_an_uninterrupted_one(tmp_path: Path) -> None:
    folder, whole = tmp_path / "run", tmp_path / "whole"
    options = [f'evaluate.methods=["{M2IB}", random]', "evaluate.baseline=random"]
    options += ["evaluate.metrics=[localisation, confidence, structure, probes]", "evaluate.probed=1"]
    assert run("data.limit=2", *options, f"output_dir={whole}") == 0
    assert run("data.limit=1", *options, f"output_dir={folder}") == 0
    assert run("data.limit=2", "resume=true", "data.batch_size=1", *options, f"output_dir={folder}") == 0
    # The batches differ, so maps differ by rounding, and nearly equal pixels change places.
    assert_same_scores(folder, whole, tolerance=1e-4)


@pytest.mark.slow
def test_another_task_or_other_methods_are_refused_in_the_same_directory(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"data.limit={PAIRS}", "resume=true", "evaluate.probed=3", "evaluate.seeds=2", f"output_dir={done}") == 2
    assert "evaluate.probed was 2 and is now 3" in capsys.readouterr().err
    assert main([f"data.limit={PAIRS}", "resume=true", f"output_dir={done}"]) == 2
    assert "task was 'evaluate' and is now 'attribute'" in capsys.readouterr().err


@pytest.mark.slow
def test_two_ranks_give_the_numbers_of_one(done: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = [
        *SMALL,
        f"data.limit={PAIRS}",
        "evaluate.probed=2",
        "evaluate.seeds=2",
        f"output_dir={folder}",
        "trainer.devices=2",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, ROOT / "fit.py", *words], check=True, env=environment, cwd=tmp_path, timeout=300)
    assert len(list((folder / "scores").glob("part-*.parquet"))) == 2
    assert_same_scores(folder, done)
    one, two = (json.loads((path / "summary.json").read_text())["methods"] for path in (done, folder))
    for method, measures in one.items():
        for measure, estimate in measures.items():
            if measure != "seconds":
                for name in ("mean", "low", "high"):
                    assert _close(two[method][measure][name], estimate[name]), (method, measure, name)


def _close(actual: float | None, expected: float | None) -> bool:
    if actual is None or expected is None:
        return actual is expected
    return math.isclose(actual, expected, rel_tol=0, abs_tol=1e-6)


def test_all_methods_are_compared_where_none_is_named() -> None:
    from m2ib_lightning.tasks.evaluate import methods_of

    names = methods_of(Config())
    assert names[0] == "m2ib"
    assert sorted(names) == [name for name in METHODS if name != "readout"]  # it needs a trained head


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "evaluate.methods=[m2ib, grad_cam]",
            "unknown attribution method 'grad_cam': choose from attention_rollout, centre",
        ),
        ("evaluate.methods=[m2ib, m2ib]", "must name methods, each once"),
        ("evaluate.methods=[]", "must name methods, each once"),
        ("evaluate.methods=['rise:sample=3']", "Did you mean 'samples'"),
        ("evaluate.baseline=sailency", "evaluate.baseline='sailency' is none of the methods"),
        ("evaluate.metrics=[localization]", "got 'localization'. Did you mean 'localisation'"),
        ("evaluate.probed=-1", "evaluate.probed must be at least 0, got -1"),
        ("evaluate.seeds=0", "evaluate.seeds must be at least 1, got 0"),
        ("evaluate.resamples=1", "evaluate.resamples must be at least 2, got 1"),
        ("method.name=grad_cam task=attribute", "unknown attribution method 'grad_cam'"),
    ],
)
def test_a_mistake_is_reported_before_the_directory_is_made(
    word: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    words = word.split(" ") if "task=" in word else [word]
    assert main([*QUIET, "data.limit=2", f"output_dir={folder}", *words]) == 2
    assert message in capsys.readouterr().err
    assert not folder.exists()


def make_table(folder: Path, rows: list[dict[str, Any]]) -> Path:
    rng = np.random.default_rng(0)
    for index, row in enumerate(rows):
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)).save(folder / f"{index}.png")
        row["image"] = f"{index}.png"
    table = folder / "pairs.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return table


@pytest.mark.slow
def test_a_source_without_masks_skips_the_measures_that_need_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = make_table(tmp_path, [{"caption": "a red circle"}, {"caption": "a blue star"}])
    folder = tmp_path / "run"
    words = [
        "data.name=captions",
        f"data.path={table}",
        "data.num_workers=0",
        f'evaluate.methods=["{M2IB}", saliency]',
        "evaluate.metrics=[localisation, confidence, probes]",
        "evaluate.probed=2",
        "evaluate.seeds=1",
        f"output_dir={folder}",
    ]
    assert run(*words) == 0
    printed = capsys.readouterr().out
    assert "The source has no masks" in printed
    assert "does not mark content words" in printed
    assert "names no other objects" in printed
    methods = json.loads((folder / "summary.json").read_text())["methods"]
    assert "image_pointing" not in methods["saliency"]
    assert methods["saliency"]["image_drop"]["pairs"] == 2
    assert methods["saliency"]["prompt_gibberish"]["pairs"] == 2
    assert methods[M2IB]["matched_auc"]["pairs"] == 2


def test_masks_of_another_size_empty_ones_and_broken_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = np.zeros((48, 64), np.uint8)
    half[:, :32] = 255
    Image.fromarray(half).save(tmp_path / "half.png")
    Image.fromarray(half[::2, ::2]).save(tmp_path / "small.png")
    Image.fromarray(half * 0).save(tmp_path / "empty.png")
    masks = ["half.png", "small.png", "empty.png", "nowhere.png", None]
    table = make_table(tmp_path, [{"caption": "a red circle", "mask": mask} for mask in masks])
    folder = tmp_path / "run"
    words = ["data.name=captions", f"data.path={table}", "data.num_workers=0", "evaluate.probed=0"]
    words += ["evaluate.methods=[saliency, centre]"]
    assert run(*words, "data.mask_column=mask", "evaluate.metrics=[localisation]", f"output_dir={folder}") == 0
    captured = capsys.readouterr()
    assert "1 masks differed in size from their pictures and were resized." in captured.out
    assert re.search(r"pairs.jsonl:3: the mask: .*nowhere.png", captured.err)
    estimate = json.loads((folder / "summary.json").read_text())["methods"]["saliency"]["image_mass"]
    assert (estimate["pairs"], estimate["left_out"]) == (2, 1)  # without the empty one, and the one that has none
    scores = load_scores(folder)
    centre = scores[(scores["method"] == "centre") & (scores["measure"] == "image_mass")]["value"].dropna()
    assert centre.iloc[0] == pytest.approx(0.5, abs=0.01)  # the left half of a symmetric map
    assert centre.iloc[0] == pytest.approx(centre.iloc[1])


def test_boxes(tmp_path: Path) -> None:
    boxes: list[Any] = [[[0, 0, 32, 48]], [0, 0, 32, 48], [[0, 0, 16, 48], [16, 0, 16, 48]], [[1, 2]]]
    table = make_table(tmp_path, [{"caption": "a red circle", "boxes": box} for box in boxes])
    folder = tmp_path / "run"
    words = ["data.name=captions", f"data.path={table}", "data.num_workers=0", "evaluate.probed=0"]
    words += ["evaluate.methods=[saliency, centre]"]
    assert run(*words, "data.box_column=boxes", "evaluate.metrics=[localisation]", f"output_dir={folder}") == 0
    scores = load_scores(folder)
    centre = scores[(scores["method"] == "centre") & (scores["measure"] == "image_mass")]["value"].tolist()
    assert centre == pytest.approx([centre[0]] * 3)
    assert centre[0] == pytest.approx(0.5, abs=0.01)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["pairs_failed"] == 1


def test_attribute_takes_another_method(tmp_path: Path) -> None:
    from m2ib_lightning import load_attributions

    folder = tmp_path / "run"
    words = ["method.name=gradcam:image_layer=0", "data.limit=2", f"output_dir={folder}"]
    assert main([*words, "trainer.enable_progress_bar=false"]) == 0
    rows = load_attributions(folder)
    assert len(rows) == 2
    assert len(rows[0]["image_saliency"]) == 64
    assert rows[0]["image_loss"] is None
    assert rows[0]["text_information"] is None
    summary = json.loads((folder / "summary.json").read_text(), parse_constant=lambda text: pytest.fail(text))
    assert summary["mean_image_information"] is None
    assert summary["mean_similarity"] is not None
    assert len(list((folder / "heatmaps").glob("*.png"))) == 2
