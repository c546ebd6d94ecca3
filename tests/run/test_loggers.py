"""The loggers of a run: their names, what Lightning's classes are given, and what their files hold."""

from __future__ import annotations

import inspect
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from PIL import Image

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.run.loggers import (
    curve_places,
    log_final_values,
    log_histogram,
    log_picture,
    log_text,
    logger_names,
    make_loggers,
    shows_pictures,
)
from m2ib_lightning.run.loggers.logger_choice import mlflow_arguments, wandb_arguments
from tests.logged import csv_of, events_of, hyperparameters_of, scalars_of

BOTH = ("tensorboard", "csv")


@pytest.mark.parametrize(
    ("requested", "names"),
    [
        (None, ("tensorboard",)),
        (True, ("tensorboard",)),
        (False, ()),
        ("none", ()),
        ([], ()),
        ("csv", ("csv",)),
        (["tensorboard", "csv"], BOTH),
    ],
)
def test_the_names(requested: Any, names: tuple[str, ...]) -> None:
    assert logger_names(requested) == names


@pytest.mark.parametrize(
    ("requested", "message"),
    [
        ("tensorbord", "'tensorbord' is no logger. There is tensorboard, csv, wandb, mlflow, a list such as"),
        ("tensorbord", "and none. Did you mean 'tensorboard'?"),
        (["csv", "csv"], "a list of names, each once, got ['csv', 'csv']"),
        (["csv", "none"], "'none' is no logger"),
        (3, "must be a name or a list of names, each once, got 3"),
        ({"csv": 1}, "must be a name or a list of names"),
    ],
)
def test_mistakes(requested: Any, message: str) -> None:
    with pytest.raises(M2IBError) as error:
        logger_names(requested)
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_package_that_is_missing(name: str) -> None:
    if find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    with pytest.raises(M2IBError) as error:
        logger_names(["csv", name])
    assert str(error.value) == f"trainer.logger={name} needs {name}: pip install 'm2ib_lightning[{name}]'"


def test_wandb_is_offline_unless_it_is_asked_to_go_online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    arguments = wandb_arguments(tmp_path, "0002")
    inspect.signature(WandbLogger).bind(**arguments)
    assert arguments == {
        "name": f"{tmp_path.name}-0002",
        "save_dir": str(tmp_path),
        "offline": True,
        "project": "mine",
    }
    assert curve_places(["wandb"], tmp_path, "0002") == [f"wandb sync {tmp_path}/wandb/offline-run-*"]
    monkeypatch.setenv("WANDB_MODE", "online")
    assert wandb_arguments(tmp_path, "0002")["offline"] is False


def test_mlflow_writes_to_the_run_directory_unless_a_server_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m2ib_lightning.run.loggers.logger_choice._SERVER", None)
    arguments = mlflow_arguments(tmp_path, "0001")
    inspect.signature(MLFlowLogger).bind(**arguments)
    assert arguments["tracking_uri"] == f"sqlite:///{tmp_path}/mlflow.db"
    assert arguments["artifact_location"] == f"file://{tmp_path}/mlflow"
    monkeypatch.setattr("m2ib_lightning.run.loggers.logger_choice._SERVER", "https://example.org")
    arguments = mlflow_arguments(tmp_path, "0001")
    assert (arguments["tracking_uri"], arguments["artifact_location"]) == ("https://example.org", None)


def test_a_second_start_keeps_the_values_of_the_first(tmp_path: Path) -> None:
    for start, value in (("0001", 0.25), ("0002", 0.5)):
        for logger in make_loggers(BOTH, tmp_path, start):
            logger.log_metrics({"pairs/similarity": value}, step=4)  # and no call that ends it, as in a killed process
            logger.save()
    assert csv_of(tmp_path, "0001") == {"pairs/similarity": [(4, 0.25)]}
    assert csv_of(tmp_path, "0002") == {"pairs/similarity": [(4, 0.5)]}
    assert scalars_of(tmp_path) == {"pairs/similarity": [(4, 0.25), (4, 0.5)]}


def test_csv_values_are_on_the_disk_at_once(tmp_path: Path) -> None:
    (logger,) = make_loggers(["csv"], tmp_path, "0001")
    logger.log_metrics({"pairs/failed": 0.0}, step=2)
    logger.log_metrics({"pairs/failed": 0.0, "pairs/similarity": 0.5}, step=4)
    assert csv_of(tmp_path) == {"pairs/failed": [(2, 0.0), (4, 0.0)], "pairs/similarity": [(4, 0.5)]}


def test_a_curve_says_its_unit(tmp_path: Path) -> None:
    (logger,) = make_loggers(["tensorboard"], tmp_path, "0001")
    for step in range(3):
        logger.log_metrics({"pairs/image_information": 2.0 + step, "lr-AdamW": 0.1}, step=step)
    logger.save()
    described = events_of(tmp_path).SummaryMetadata("pairs/image_information")
    assert "information in nats per token and channel" in described.summary_description
    assert "The x axis is the number of pairs done" in described.summary_description
    assert scalars_of(tmp_path)["pairs/image_information"] == [(0, 2.0), (1, 3.0), (2, 4.0)]


def test_final_values_have_the_settings_beside_them(tmp_path: Path) -> None:
    loggers = make_loggers(BOTH, tmp_path, "0001")
    config = {"seed": 3, "output_dir": "x", "bottleneck": {"steps": 10, "image": {"beta": None, "layer": 2}}}
    values = {"summary/mean_similarity": 0.25, "summary/x": float("nan"), "evaluation/iou/rise:samples=5": 0.5}
    log_final_values(loggers, config, values, 7, texts={"evaluation/table": "| a |"})
    expected = {"summary/mean_similarity": [(7, 0.25)], "evaluation/iou/rise_samples_5": [(7, 0.5)]}
    assert scalars_of(tmp_path) == csv_of(tmp_path) == expected
    assert hyperparameters_of(tmp_path) == {"seed": 3, "bottleneck.steps": 10, "bottleneck.image.layer": 2}
    (text,) = events_of(tmp_path).Tensors("evaluation/table/text_summary")
    assert text.tensor_proto.string_val[0] == b"| a |"


def test_another_rank_adds_the_final_values_to_tensorboard_alone(tmp_path: Path) -> None:
    guard: Any = rank_zero_only
    before = getattr(guard, "rank", None)
    first, *_ = make_loggers(BOTH, tmp_path, "0001")
    first.log_metrics({"pairs/similarity": 0.5}, step=1)
    first.save()
    guard.rank = 1  # as Lightning sets it in the process of rank 1
    try:
        log_final_values(make_loggers(BOTH, tmp_path, "0001"), {}, {"summary/seconds": 3.0}, 2, rank=1)
        assert guard.rank == 1
    finally:
        guard.rank = before
    assert scalars_of(tmp_path) == {"pairs/similarity": [(1, 0.5)], "summary/seconds": [(2, 3.0)]}
    assert not (tmp_path / "csv").exists()


def test_pictures_histograms_and_texts_go_where_they_are_shown(tmp_path: Path) -> None:
    loggers = make_loggers(BOTH, tmp_path, "0001")
    assert [shows_pictures(logger) for logger in loggers] == [True, False]
    log_picture(loggers, "heatmap/a", Image.new("RGB", (6, 4), (255, 0, 0)), 3)
    log_histogram(loggers, "lambda/image", np.linspace(0, 1, 100), 2)
    log_text(loggers, "note", "text", 0)
    for logger in loggers:
        logger.save()
    events = events_of(tmp_path)
    (picture,) = events.Images("heatmap/a")
    assert (picture.step, picture.width, picture.height) == (3, 6, 4)
    (histogram,) = events.Histograms("lambda/image")
    assert (histogram.step, histogram.histogram_value.num) == (2, 100)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_an_installed_package_takes_the_values(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(name)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    (logger,) = make_loggers(logger_names(name), tmp_path, "0001")
    logger.log_metrics({"pairs/similarity": 0.5}, step=4)
    log_picture([logger], "heatmap/a", Image.new("RGB", (6, 4)), 4)
    log_histogram([logger], "lambda/image", np.linspace(0, 1, 100), 2)
    log_final_values([logger], {"seed": 1}, {"summary/seconds": 3.0}, 2, texts={"evaluation/table": "| a |"})
    logger.finalize("success")
    if name == "wandb":
        import wandb

        wandb.finish()
        assert len(list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))) == 1
    else:
        assert isinstance(logger, MLFlowLogger)
        client: Any = logger.experiment
        assert client.get_run(logger.run_id).data.metrics == {"pairs/similarity": 0.5, "summary/seconds": 3.0}
