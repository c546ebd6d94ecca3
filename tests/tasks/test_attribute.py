"""``task=attribute`` from the command line to the run directory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lightning import Trainer
from omegaconf import OmegaConf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from m2ib_lightning import M2IBModule
from m2ib_lightning.cli import main
from m2ib_lightning.encoder import suffix
from m2ib_lightning.pairs.pair import Pair
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.run.callbacks import TableWriter
from m2ib_lightning.run.counts import Counts
from m2ib_lightning.run.directory import heatmap_name
from m2ib_lightning.run.parts import SCHEMA, to_record_batch, write_part
from m2ib_lightning.tasks import over_pairs
from tests import ROOT
from tests.folders import save_clip_folder, save_photograph
from tests.run.pages import PageReader

FAST = ["bottleneck.steps=3", "bottleneck.noise_samples=2", "trainer.enable_progress_bar=false", "data.num_workers=0"]
FAST += ["output.tensorboard_images=0"]
NO_PICTURES = "output.heatmaps=0"

PAIRS = [
    ("one.png", (90, 60), "a red circle"),
    ("two.jpg", (60, 90), "a small blue star and a white ring"),
    ("three.png", (33, 33), "the ring"),
    ("four.jpg", (400, 300), "<b>a green & yellow square</b>"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip_folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = []
    for name, size, caption in PAIRS:
        save_photograph(tmp_path / name, *size)
        rows.append(f'{name},"{caption}",../id {name}')
    (tmp_path / "pairs.csv").write_text("image,caption,uid\n" + "\n".join(rows) + "\n")
    return tmp_path / "pairs.csv"


def parts_of(run: Path) -> list[str]:
    return sorted(str(part) for part in (run / "attributions").glob("*.parquet"))


def read_rows(run: Path) -> list[dict[str, Any]]:
    return [row for part in parts_of(run) for row in pq.read_table(part).to_pylist()]


def run_captions(folder: Path, table: Path, run: Path, *more: str) -> int:
    keys = [f"model.name={folder}", "data.name=captions", f"data.path={table}", f"output_dir={run}"]
    return main([*keys, *FAST, *more])


def test_the_run_directory(folder: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert run_captions(folder, table, run, "data.id_column=uid", "output.tensorboard_images=2") == 0

    files = {"data_files": parts_of(run), "cache_dir": str(run / "cache")}
    rows = list(datasets.load_dataset("parquet", split="train", **files))
    assert list(rows[0]) == SCHEMA.names
    assert [row["key"] for row in rows] == [f"pairs.csv:{k}" for k in range(4)]
    for row, (name, size, caption) in zip(rows, PAIRS, strict=True):
        assert row["error"] is None
        assert (row["image"], row["caption"], row["id"]) == (name, caption, f"../id {name}")
        assert (row["image_width"], row["image_height"]) == size
        left, top, right, bottom = row["crop"]
        scaled_pixel = min(size) / 32  # the processor crops in these
        assert abs((right - left) - min(size)) <= scaled_pixel
        assert abs((bottom - top) - min(size)) <= scaled_pixel
        assert len(row["image_saliency"]) == row["grid_height"] * row["grid_width"] == 16
        assert len(row["tokens"]) == len(row["token_offsets"]) == len(row["text_saliency"])
        assert min(row["image_saliency"] + row["text_saliency"]) >= 0
        assert len(row["image_loss"]) == len(row["text_loss"]) == 3
        assert -1 <= row["similarity"] <= 1
        assert row["heatmap"] == heatmap_name(row["id"], row["key"], ".jpg")
        with Image.open(run / "heatmaps" / row["heatmap"]) as picture:
            assert picture.width > picture.height
    assert [rows[0]["caption"][start:end] for start, end in rows[0]["token_offsets"]] == ["a", "red", "circle"]

    summary = json.loads((run / "summary.json").read_text())
    assert (summary["pairs_done"], summary["pairs_failed"]) == (4, 0)
    assert summary["mean_similarity"] == pytest.approx(np.mean([row["similarity"] for row in rows]), abs=1e-5)
    assert summary["mean_text_information"] == pytest.approx(np.mean([row["text_information"] for row in rows]))

    assert "<b>a green" not in (run / "report.html").read_text()
    page = PageReader(run / "report.html")
    assert [row["caption"] for row in page.rows] == [caption for _, _, caption in PAIRS]
    assert all(row["thumb"].startswith("data:image/jpeg") for row in page.rows)
    assert page.head["summary"]["pairs_done"] == 4

    resolved = OmegaConf.load(run / "config.yaml")
    assert resolved.bottleneck.image.layer == 1  # min(round(0.75 * 3), 3 - 2)
    assert resolved.bottleneck.steps == 3
    assert f"tensorboard --logdir {run}" in capsys.readouterr().out


def test_the_resolved_config_repeats_the_run(folder: Path, table: Path, tmp_path: Path) -> None:
    assert run_captions(folder, table, tmp_path / "first") == 0
    again = ["--config", str(tmp_path / "first" / "config.yaml"), f"output_dir={tmp_path / 'second'}"]
    assert main(again) == 0
    first, second = read_rows(tmp_path / "first"), read_rows(tmp_path / "second")
    for a, b in zip(first, second, strict=True):
        assert a == b


def test_curves_and_pictures_reach_tensorboard(folder: Path, table: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert run_captions(folder, table, run, "output.tensorboard_images=2", "data.batch_size=3") == 0
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0}).Reload()
    rows = read_rows(run)
    scalars = events.Tags()["scalars"]
    for modality in ("image", "text"):
        for quantity in ("loss", "information", "similarity"):
            name = f"{modality}_{quantity}"
            assert [event.step for event in events.Scalars(f"final/{name}")] == [3, 4]  # pairs done
            assert [event.step for event in events.Scalars(f"mean_curve/{name}")] == [0, 1, 2]
            assert len([tag for tag in scalars if tag.startswith("pair/") and tag.endswith(f"/{name}")]) == 2
        curve = [event.value for event in events.Scalars(f"mean_curve/{modality}_loss")]
        np.testing.assert_allclose(curve, np.mean([row[f"{modality}_loss"] for row in rows], axis=0), rtol=1e-5)
    assert len(events.Tags()["images"]) == 2


def test_broken_pairs_become_rows_and_the_others_do_not_change(
    folder: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_captions(folder, table, tmp_path / "clean", NO_PICTURES) == 0
    (tmp_path / "broken.png").write_bytes(b"no image")
    broken = 'broken.png,"a star",x\nmissing.png,"a star",y\none.png,"  ",z\n'
    head, *rows = table.read_text().splitlines(keepends=True)
    table.write_text(head + rows[0] + broken + "".join(rows[1:]))
    capsys.readouterr()
    assert run_captions(folder, table, tmp_path / "mixed", "data.batch_size=3", NO_PICTURES) == 0
    printed = capsys.readouterr()

    in_order = [row["key"] for row in read_rows(tmp_path / "mixed")]
    assert in_order == [f"pairs.csv:{k}" for k in range(7)]
    mixed = {row["key"]: row for row in read_rows(tmp_path / "mixed")}
    assert len(mixed) == 7
    for number, text in ((1, "known format"), (2, "does not exist"), (3, "caption is empty")):
        row = mixed[f"pairs.csv:{number}"]
        assert text in row["error"]
        assert all(row[name] is None for name in SCHEMA.names[4:] if name not in ("error", "fingerprint"))
        assert f"pairs.csv:{number}: " in printed.err
    assert "4 pairs explained" in printed.out
    assert "3 failed" in printed.out
    assert str(tmp_path / "mixed" / "attributions") in printed.err
    for before, number in zip(read_rows(tmp_path / "clean"), (0, 4, 5, 6), strict=True):
        row = mixed[f"pairs.csv:{number}"]
        for name in ("image_saliency", "text_saliency", "image_loss", "text_loss"):
            difference = np.abs(np.subtract(row[name], before[name])).max() / np.abs(before[name]).max()
            assert difference < 1e-5, (name, difference)


def test_lists_of_captions_are_a_row_each(folder: Path, table: Path, tmp_path: Path) -> None:
    captions: list[Any] = [["a red circle", "a star"], [["a ring"]], None, "a ring"]
    lines = [json.dumps({"image": "one.png", "caption": caption}) for caption in captions]
    (tmp_path / "lists.jsonl").write_text("\n".join(lines))
    assert run_captions(folder, tmp_path / "lists.jsonl", tmp_path / "run") == 0
    rows = read_rows(tmp_path / "run")
    assert [row["key"] for row in rows] == [f"lists.jsonl:{k}" for k in ("0.0", "0.1", "1.0", "2", "3")]
    assert [row["caption"] for row in rows] == ["a red circle", "a star", None, None, "a ring"]
    assert "must be text, got list" in rows[2]["error"]
    assert "null cell" in rows[3]["error"]
    assert len({row["heatmap"] for row in rows if row["heatmap"]}) == 3


def test_text_without_utf8_can_be_written(tmp_path: Path) -> None:
    pair = Pair(key="t:0", id="\udcff", image="\udcff.png", caption="a \ud800 star")
    rows = to_record_batch([Attribution(pair, error="\udcff.png is broken").to_row()])
    write_part(pa.Table.from_batches([rows]), Counts(failed=1), tmp_path / "part.parquet")
    (row,) = pq.read_table(tmp_path / "part.parquet").to_pylist()
    assert (row["id"], row["image"], row["caption"]) == ("?", "?.png", "a ? star")
    assert row["error"] == "?.png is broken"


def test_the_exit_status_is_1_when_every_pair_fails(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("image,caption\nno.png,a star\nnor.png,a ring\n")
    assert run_captions(folder, tmp_path / "pairs.csv", tmp_path / "run") == 1
    assert [row["error"] is None for row in read_rows(tmp_path / "run")] == [False, False]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["pairs_failed"] == 2


def test_the_demo_config_repeats_from_its_resolved_file(tmp_path: Path) -> None:
    first = [f"output_dir={tmp_path / 'first'}", "data.limit=1", "bottleneck.steps=1"]
    assert main(["--config", "demo", *first]) == 0
    again = ["--config", str(tmp_path / "first" / "config.yaml"), f"output_dir={tmp_path / 'second'}"]
    assert main(again) == 0
    assert read_rows(tmp_path / "first") == read_rows(tmp_path / "second")


def test_the_paper_config_is_the_published_setting_whatever_the_model_recommends(tmp_path: Path) -> None:
    assert main(["--config", "paper", f"output_dir={tmp_path / 'run'}", "data.limit=1"]) == 0
    used = OmegaConf.load(tmp_path / "run" / "config.yaml").bottleneck
    assert (used.image.layer, used.text.layer) == (2, 1)  # 9 of 12, for 4 and for 3 blocks
    for tower in (used.image, used.text):
        assert (tower.beta, tower.sigma, tower.granularity, tower.prior) == (0.1, 1.0, "element", "unit")
    assert (used.steps, used.lr, used.noise_samples, used.initial_alpha) == (10, 1.0, 10, 5.0)
    assert (used.path, used.centred_noise) == (1, False)


def test_every_part_of_the_table_is_kept(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path, rows=2)
    trainer = Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False)
    pairs = [Attribution(Pair(key=f"t:{k}", id="x", image="", caption=None), error="e") for k in range(7)]
    for start in (0, 1, 4, 5):
        writer.on_results(trainer, pairs[start : {0: 1, 1: 4, 4: 5, 5: 7}[start]])
    writer.finish(trainer)
    writer.finish(trainer)
    parts = sorted(tmp_path.iterdir())
    assert len(parts) == 2
    assert [row["key"] for part in parts for row in pq.read_table(part).to_pylist()] == [p.pair.key for p in pairs]


def test_ctrl_c_keeps_the_finished_rows_in_this_process(
    folder: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(module: M2IBModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(M2IBModule, "on_train_batch_start", interrupt)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell leaves it ignored
    try:
        assert run_captions(folder, table, tmp_path / "run", "data.batch_size=1", NO_PICTURES) == 130
    finally:
        for number, handler in handlers.items():  # Lightning leaves Ctrl-C ignored
            signal.signal(number, handler)
    printed = capsys.readouterr()
    assert [row["key"] for row in read_rows(tmp_path / "run")] == ["pairs.csv:0", "pairs.csv:1"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["pairs_done"], summary["pairs_skipped"]) == (2, 2)
    assert "2 pairs explained" in printed.out
    assert "2 of 4 pairs were not reached" in printed.err


@pytest.mark.slow
def test_ctrl_c_keeps_the_finished_rows(tmp_path: Path) -> None:
    command = [sys.executable, "fit.py", "data.limit=400", "data.batch_size=2", f"output_dir={tmp_path / 'run'}"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # tests in the background would pass on SIG_IGN
    )
    while process.poll() is None and len(list(tmp_path.glob("run/heatmaps/*.jpg"))) < 4:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    rows = read_rows(tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    done = summary["pairs_done"]
    assert len(rows) == len({row["key"] for row in rows}) >= 2
    assert len(rows) - 2 <= done <= len(rows)  # the signal may come between two writers of the batch in hand
    assert summary["pairs_skipped"] == 400 - done
    assert f"{done} pairs explained" in printed
    assert f"{400 - done} of 400 pairs were not reached" in errors
    assert "Traceback" not in errors


def test_tensorboard_pictures_do_not_depend_on_the_files(folder: Path, table: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert run_captions(folder, table, run, "output.heatmaps=0", "output.tensorboard_images=3") == 0
    assert not list((run / "heatmaps").iterdir())
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0}).Reload()
    assert len(events.Tags()["images"]) == 3


def test_output_heatmaps_limits_the_pictures(folder: Path, table: Path, tmp_path: Path) -> None:
    assert run_captions(folder, table, tmp_path / "run", "output.heatmaps=1") == 0
    assert len(list((tmp_path / "run" / "heatmaps").iterdir())) == 1
    assert [row["heatmap"] is None for row in read_rows(tmp_path / "run")] == [False, True, True, True]


def test_a_prior_from_the_data_is_measured_kept_and_used_again(folder: Path, table: Path, tmp_path: Path) -> None:
    from m2ib_lightning import explain

    prior = ["bottleneck.image.prior=data", "bottleneck.text.prior=data"]
    prior.append(NO_PICTURES)
    assert run_captions(folder, table, tmp_path / "run", *prior, "data.batch_size=3") == 0
    statistics = tmp_path / "run" / "statistics.safetensors"
    assert "sha256" in (tmp_path / "run" / "config.yaml").read_text()
    assert run_captions(folder, table, tmp_path / "again", *prior, f"bottleneck.statistics={statistics}") == 0
    assert not (tmp_path / "again" / "statistics.safetensors").exists()
    first, again = read_rows(tmp_path / "run"), read_rows(tmp_path / "again")
    np.testing.assert_allclose(first[0]["image_saliency"], again[0]["image_saliency"], rtol=1e-4)
    result = explain(
        table.parent / "one.png",
        "a red circle",
        model=folder,
        statistics=statistics,
        bottleneck={"image": {"prior": "data"}, "text": {"prior": "data"}, "steps": 3, "noise_samples": 2},
    )
    np.testing.assert_allclose(result.image_saliency.ravel(), first[0]["image_saliency"], rtol=1e-3)


def test_a_calibration_without_a_readable_pair_leaves_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pairs.csv").write_text("image,caption\nno.png,a star\n")
    assert run_captions(folder, tmp_path / "pairs.csv", tmp_path / "run", "bottleneck.image.prior=data") == 2
    assert "no pair gives any: none could be read" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_worker_processes_give_the_same_rows(folder: Path, table: Path, tmp_path: Path) -> None:
    assert run_captions(folder, table, tmp_path / "none", NO_PICTURES) == 0
    assert run_captions(folder, table, tmp_path / "two", "data.num_workers=2", "data.batch_size=1", NO_PICTURES) == 0
    for one, two in zip(read_rows(tmp_path / "none"), read_rows(tmp_path / "two"), strict=True):
        assert (one["key"], one["tokens"], one["crop"]) == (two["key"], two["tokens"], two["crop"])
        np.testing.assert_allclose(one["image_saliency"], two["image_saliency"], rtol=1e-4)


def test_calibration_is_the_statistics_of_the_layer(folder: Path, table: Path) -> None:
    import torch

    from m2ib_lightning import load_model
    from m2ib_lightning.datamodules import CaptionsDataModule
    from m2ib_lightning.encoder.frozen import frozen
    from m2ib_lightning.m2ib.statistics import Statistics, calibrate
    from tests.reference import hidden_states

    model = load_model(str(folder))
    datamodule = CaptionsDataModule(model.preparer, table, batch_size=2, num_workers=0)  # 3 is in mid-batch
    with frozen(model.encoder.model):
        found = calibrate(model.encoder, datamodule.calibration_batches(3), {"image": -1, "text": 1}, Statistics(), 3)
    tokens: dict[str, list[torch.Tensor]] = {"image.-1": [], "text.1": []}
    for name, _, caption in PAIRS[:3]:
        with Image.open(table.parent / name) as picture:
            inputs = model.processor(text=[caption], images=[picture.convert("RGB")], return_tensors="pt")
        for name_of, modality, layer in (("image.-1", "image", -1), ("text.1", "text", 1)):
            hidden = hidden_states(model.encoder.model, modality, layer, inputs["pixel_values"], inputs["input_ids"])
            tokens[name_of].append(hidden[0].double())
    for name_of, parts in tokens.items():
        together = torch.cat(parts)
        torch.testing.assert_close(found.priors[name_of].mean, together.mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.priors[name_of].std, together.std(0, correction=0), rtol=1e-5, atol=1e-6)


def test_half_precision_on_the_command_line(
    folder: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precisions = ("32-true", "bf16-mixed", "16-mixed")
    monkeypatch.setattr(over_pairs, "speed_on_cpu", lambda dtype: 1.0)  # which measures for seconds
    for precision in precisions:
        assert run_captions(folder, table, tmp_path / precision, f"trainer.precision={precision}", NO_PICTURES) == 0
        assert f"precision: {precision}" in (tmp_path / precision / "config.yaml").read_text()
    exact_rows, *half_rows = (read_rows(tmp_path / precision) for precision in precisions)
    for rows, tolerance in zip(half_rows, (2e-2, 2e-3), strict=True):
        assert_near(exact_rows, rows, tolerance)


def assert_near(exact_rows: list[dict[str, Any]], half_rows: list[dict[str, Any]], tolerance: float) -> None:
    for exact, half in zip(exact_rows, half_rows, strict=True):
        a, b = np.array(exact["image_saliency"]), np.array(half["image_saliency"])
        assert 0 < np.abs(a - b).max() / np.abs(a).max() < tolerance


def test_a_slow_precision_and_slow_blocks_are_mentioned(
    folder: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(over_pairs, "speed_on_cpu", lambda dtype: 0.5)
    with monkeypatch.context() as patch:
        patch.setattr(suffix, "_parts", lambda tower, layer: None)
        assert run_captions(folder, table, tmp_path / "run", "trainer.precision=bf16-mixed", NO_PICTURES) == 0
    errors = capsys.readouterr().err
    assert "2.0 times slower in bf16-mixed than in float32" in errors
    assert "note: the text blocks are the model's own (CLIPEncoderLayer), which take longer than fused ones" in errors
    monkeypatch.setattr(over_pairs, "speed_on_cpu", lambda dtype: 2.0)
    assert run_captions(folder, table, tmp_path / "again", "trainer.precision=bf16-mixed", NO_PICTURES) == 0
    assert "note:" not in capsys.readouterr().err


def test_runs_without_a_directory_are_dated_and_latest_points_at_them(
    folder: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main([f"model.name={folder}", "data.limit=1", *FAST]) == 0
    runs = sorted(path for path in (tmp_path / "runs").iterdir() if not path.is_symlink())
    assert len(runs) == 2
    assert (tmp_path / "runs" / "latest").resolve() == runs[-1]


@pytest.mark.slow
def test_photographs_with_a_vit_b_32(tmp_path: Path) -> None:
    folder = save_clip_folder(
        tmp_path / "vit-b-32", image=224, patch=32, width=768, text_width=512, blocks=12, heads=8, projection=512
    )
    for name, size, _ in PAIRS:
        save_photograph(tmp_path / name, *(side * 4 for side in size))
    (tmp_path / "pairs.csv").write_text(
        "image,caption\n" + "".join(f'{name},"{caption}"\n' for name, _, caption in PAIRS)
    )
    assert run_captions(folder, tmp_path / "pairs.csv", tmp_path / "run") == 0
    rows = read_rows(tmp_path / "run")
    assert [len(row["image_saliency"]) for row in rows] == [49] * 4
    assert OmegaConf.load(tmp_path / "run" / "config.yaml").bottleneck.image.layer == 9
    assert all(row["error"] is None for row in rows)
