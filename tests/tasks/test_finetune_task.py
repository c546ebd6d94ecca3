"""``task=finetune``: its output, ranks and interruptions that change nothing, and mistakes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPModel

from m2ib_lightning import ScenesDataModule, explain, load_model
from m2ib_lightning.cli import main
from m2ib_lightning.encoder.frozen import frozen
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.finetuning import IBClipModule
from m2ib_lightning.finetuning.folder import BOTTLENECK_FILE
from m2ib_lightning.m2ib.statistics import Statistics, calibrate
from m2ib_lightning.models import LoadedModel
from m2ib_lightning.tasks.finetune_arguments import steps_between_logs
from tests import ROOT
from tests.equality import relative_difference
from tests.folders import save_clip_folder
from tests.logged import csv_of, events_of, hyperparameters_of, scalars_of
from tests.ranks import free_port, run_on_ranks
from tests.run.pages import PageReader

QUIET = ["task=finetune", "trainer.enable_progress_bar=false", "data.batch_size=4", "finetune.warmup=2"]
QUIET += ["bottleneck.steps=2", "bottleneck.noise_samples=2"]  # of the maps at validation
QUIET += ["trainer.precision=64-true"]  # Adam makes steps of rounding where a gradient is zero
QUIET += ["bottleneck.calibration_pairs=20"]  # the layers' statistics are measured after each training
EPOCHS = "trainer.max_epochs=2"


def run(folder: Path, *words: str) -> int:
    return main([*QUIET, "data.limit=24", "finetune.lr=1e-4", f"output_dir={folder}", *words])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finetune") / "run"
    assert run(folder, EPOCHS, "finetune.mask=readout", "trainer.logger=[tensorboard,csv]") == 0
    return folder


def assert_same_weights(one: Path, other: Path, tolerance: float) -> None:
    first, second = (
        CLIPModel.from_pretrained(folder / "model").state_dict() | load_file(folder / "model" / BOTTLENECK_FILE)
        for folder in (one, other)
    )
    assert set(first) == set(second)
    for name, value in first.items():
        assert torch.allclose(value, second[name], atol=tolerance), name


def test_plain_transformers_and_explain_load_the_trained_model(done: Path) -> None:
    assert isinstance(CLIPModel.from_pretrained(done / "model"), CLIPModel)
    summary = json.loads((done / "summary.json").read_text())
    for name in ("image_to_text@1", "text_to_image@1", "image_information", "text_information", "image_pointing"):
        assert f"val/{name}" in summary
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    result = explain(image, "a red circle", model=str(done / "model"), method="readout")
    assert result.image_saliency.shape == (8, 8)
    assert result.unit == "nats"
    again = explain(
        [image, image], ["a red circle", "a blue star on the left"], model=str(done / "model"), method="readout"
    )
    assert relative_difference(again[0].image_saliency, result.image_saliency) < 1e-5
    assert relative_difference(again[1].image_saliency, result.image_saliency) > 1e-6
    assert explain(image, "a red circle", model=str(done / "model")).final_loss is not None


def test_the_page_has_the_curves_and_the_metrics(done: Path) -> None:
    training = PageReader(done / "report.html").head["training"]
    summary = json.loads((done / "summary.json").read_text())
    assert training["finished"]
    assert training["summary"] == summary
    curves = training["curves"]
    assert [step for step, _ in curves["train/loss"]] == list(range(1, 11))
    assert curves["train/loss"][-1][1] == pytest.approx(summary["train/loss"], rel=1e-5)
    assert [step for step, _ in curves["val/image_to_text@1"]] == [5, 10]
    assert curves["val/image_to_text@1"][-1][1] == pytest.approx(summary["val/image_to_text@1"], rel=1e-5)
    assert training["facts"]["pairs"] == 24


def test_the_training_is_logged(done: Path) -> None:
    scalars = scalars_of(done)
    summary = json.loads((done / "summary.json").read_text())
    for name in ("train/loss", "train/image_information", "train/text_information"):
        assert [step for step, _ in scalars[name]] == list(range(10))  # a short training: each step
    for name in ("val/image_to_text@1", "val/image_information"):
        assert len(scalars[name]) == 2  # epochs
        assert scalars[name][-1][1] == pytest.approx(summary[name])
        assert scalars[f"summary/{name}"] == [(10, pytest.approx(summary[name]))]
    assert set(csv_of(done)) == set(scalars)
    events = events_of(done)
    assert "custom_scalars__config__" in events.Tags()["tensors"]
    assert "nats per token and channel" in events.SummaryMetadata("train/image_information").summary_description
    assert len([tag for tag in events.Tags()["images"] if tag.startswith("val/map-")]) == 2  # all that are validated
    settings = hyperparameters_of(done)
    assert (settings["task"], settings["finetune.mask"], settings["model.name"]) == ("finetune", "readout", "scenes")


@pytest.mark.parametrize(
    ("pairs", "arguments", "every"),
    [
        (40, {"max_epochs": 2}, 2),  # 20 steps
        (40, {"max_epochs": 2, "max_steps": 5}, 1),
        (40, {"max_epochs": 20, "accumulate_grad_batches": 2}, 10),  # 100 steps
        (4000, {"max_epochs": 2}, 10),
    ],
)
def test_the_loss_is_logged_at_least_every_ten_steps(pairs: int, arguments: dict[str, int], every: int) -> None:
    assert steps_between_logs(pairs, 4, arguments) == every


STOPS = {
    "between epochs": "M.on_validation_epoch_start = lambda self: os._exit(9) if self.current_epoch == 1 else None",
    "inside an epoch": "M.on_train_batch_start = lambda self, *_: os._exit(9) if self.global_step == 8 else None",
}
"""Of 5 steps in an epoch; with a checkpoint every 2 steps the second loses one."""


@pytest.mark.slow
@pytest.mark.parametrize("when", STOPS)
def test_a_run_that_is_resumed_has_the_weights_of_one_that_is_not(when: str, done: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code = "import sys; from m2ib_lightning.cli import main; sys.exit(main())"
    words = [*QUIET, "data.limit=24", "finetune.lr=1e-4", f"output_dir={folder}", "finetune.mask=readout"]
    words += [EPOCHS, "finetune.checkpoint_every=2"]
    stop = "import os; from m2ib_lightning.finetuning import IBClipModule as M\n" + STOPS[when] + "\n"
    killed = subprocess.run([sys.executable, "-c", stop + code, *words], timeout=200)
    assert killed.returncode == 9
    assert not (folder / "model").exists()
    subprocess.run([sys.executable, "-c", code, *words, "resume=true"], check=True, timeout=200)
    assert_same_weights(folder, done, 1e-6)
    assert json.loads((folder / "summary.json").read_text())["steps"] == 10


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("brief") / "run"
    assert run(folder, *BRIEF) == 0
    return folder


BRIEF = ["trainer.max_epochs=1", "data.limit=9", "finetune.mask=readout", "finetune.maps=0"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_ranks_give_the_weights_of_one_with_the_double_batch(strategy: str, brief: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = [*QUIET, "finetune.lr=1e-4", f"output_dir={folder}", *BRIEF]
    words += ["data.batch_size=2", "trainer.devices=2", f"trainer.strategy={strategy}"]
    assert run_on_ranks(words) == [0, 0]
    assert_same_weights(folder, brief, 1e-5)


TWO_RANKS = [EPOCHS, "finetune.mask=readout", "data.limit=24", "finetune.lr=1e-4", "data.batch_size=2"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["fit.py", "torchrun", "two nodes", "srun"])
def test_every_launcher_gives_the_weights_of_one_rank(launcher: str, done: Path, tmp_path: Path) -> None:
    """By ``fit.py`` itself, torchrun, a person on two nodes, and a Slurm step; then again, when the run is over."""
    for attempt in ("first", "again"):
        port = str(free_port())
        words = [*QUIET, *TWO_RANKS, f"output_dir={tmp_path / 'run'}", *(["resume=true"] if attempt == "again" else [])]
        meeting = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        fit = [sys.executable, str(ROOT / "fit.py"), *words]
        if launcher == "fit.py":
            starts: list[tuple[list[str], dict[str, str]]] = [([*fit, "trainer.devices=2"], {})]
        elif launcher == "torchrun":
            program = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--master_addr=127.0.0.1"]
            fit = [sys.executable, *program, f"--master_port={port}", *fit[1:]]
            starts = [(fit, {})]
        elif launcher == "two nodes":
            sizes = ["trainer.devices=1", "trainer.num_nodes=2", "trainer.strategy=ddp"]
            starts = [([*fit, *sizes], {"NODE_RANK": str(node)}) for node in (1, 0)]
        else:
            step = {"JOB_ID": 4242, "STEP_ID": 0, "STEP_NUM_TASKS": 2, "STEP_NUM_NODES": 1, "STEP_TASKS_PER_NODE": 2}
            starts = [(fit, slurm(step | {"PROCID": task, "LOCALID": task, "NODEID": 0})) for task in (1, 0)]
        processes = [subprocess.Popen(command, env=meeting | more, cwd=tmp_path) for command, more in starts]
        assert [process.wait(timeout=300) for process in processes] == [0] * len(processes)
        assert_same_weights(tmp_path / "run", done, 1e-5)


def slurm(variables: dict[str, int]) -> dict[str, str]:
    return {f"SLURM_{name}": str(value) for name, value in variables.items()}


@pytest.mark.slow
def test_resuming_a_finished_run_keeps_its_summary_and_refuses_another_batch(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = json.loads((done / "summary.json").read_text())
    words = [EPOCHS, "finetune.mask=readout", "resume=true"]
    assert run(done, *words) == 0
    after = json.loads((done / "summary.json").read_text())
    assert {name for name in after if name.startswith("val/")} == {n for n in before if n.startswith("val/")}
    assert after["val/image_information"] == pytest.approx(before["val/image_information"])
    capsys.readouterr()
    assert run(done, *words, "data.batch_size=8") == 2
    assert "global_batch was 4 and is now 8" in capsys.readouterr().err
    assert run(done, *words, "data.limit=20") == 2
    assert "pairs was 24 and is now 20" in capsys.readouterr().err


def test_statistics_are_measured_again_where_the_model_has_changed(done: Path) -> None:
    bundled, trained = load_model("scenes"), load_model(str(done / "model"))
    before, after = measured(bundled), measured(trained)
    assert set(trained.statistics.priors) == set(bundled.statistics.priors) == set(before.priors)
    for name, prior in trained.statistics.priors.items():
        assert not torch.equal(prior.mean, bundled.statistics.priors[name].mean)
        assert torch.allclose(prior.mean, before.priors[name].mean, atol=0.3)
        assert relative_difference(prior.mean, after.priors[name].mean) < 1e-5
        assert relative_difference(prior.std, after.priors[name].std) < 1e-5


def measured(model: LoadedModel) -> Statistics:
    """Statistics of the layers on the pairs on which a training measures them."""
    batches = ScenesDataModule(model.preparer, limit=20, batch_size=20).calibration_batches(20)
    with frozen(model.encoder.model):
        return calibrate(model.encoder, batches, {"image": -1, "text": -1}, Statistics(), 20)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.limit=24", "finetune.train=most"], "finetune.train must be all, heads, lora, bottleneck, or last:N"),
        (["data.limit=24", "finetune.train=last:9"], "last:N with N from 1 to 4 blocks, got 'last:9'"),
        (["data.limit=24", "finetune.loss=hinge"], "finetune.loss must be one of contrastive, sigmoid, similarity"),
        (["data.limit=24", "finetune.train=bottleneck", "bottleneck.enabled=false"], "leave nothing to train"),
        (["data.limit=4", "finetune.validation=0.1"], "leaves none for validation"),
        (["data.limit=24", "data.batch_size=1"], "a global batch of one pair has nothing to contrast"),
        (["data.limit=24", "data.batch_size=64"], "do not fill one global batch of 64"),
        (["data.limit=24", "finetune.validation=1.5"], "must be a share from 0 to below 1"),
        (["data.limit=24", "trainer.strategy=deepspeed"], "trainer.strategy=deepspeed was never tried and is refused"),
        (["data.limit=24", "trainer.strategy=fdsp"], "takes ddp or fsdp. Did you mean 'fsdp'?"),
        (["data.limit=24", "trainer.strategy=fsdp", "trainer.precision=16-mixed"], "use bf16-mixed"),
        (["data.limit=24", "trainer.num_nodes=2"], "trainer.num_nodes=2: set MASTER_ADDR and MASTER_PORT"),
        (["data.limit=24", "trainer.precision=bf16-true"], "weights and masks must be float32"),
        (["data.limit=24", "trainer.max_epochs=-1"], "trainer.max_epochs=-1 never ends"),
        (["data.limit=24", "finetune.loss=similarity"], "knows no wrong pairs"),
        (["data.limit=24", "finetune.max_logit_scale=0"], "finetune.max_logit_scale must be above 1, got 0"),
        (["data.limit=24", "finetune.rank=0"], "finetune.rank must be from 1 to 65536, got 0"),
        (["data.limit=24", "finetune.prompt=photo"], "finetune.prompt must have {} where the class's name goes"),
        (["data.limit=24", "seed=-1"], "seed must not be negative"),
        (["data.limit=24", "trainer.strategy=samples"], "shares no gradients"),
        (["data.limit=24", "trainer.logger=[csv,cvs]"], "'cvs' is no logger"),
        (["data.limit=24", "finetune.mask=tokens"], "expected one of ['channel', 'readout']"),
    ],
)
def test_mistakes(words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*QUIET, f"output_dir={tmp_path / 'run'}", *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_model_without_a_readout_says_what_makes_one() -> None:
    with pytest.raises(M2IBError, match=r"no trained bottleneck .* finetune.mask=readout makes one"):
        explain(np.zeros((64, 64, 3), np.uint8), "a star", method="readout")


def test_the_readout_needs_a_caption(done: Path) -> None:
    with pytest.raises(M2IBError, match="not against an embedding"):
        explain(np.zeros((64, 64, 3), np.uint8), target=np.ones(96), model=str(done / "model"), method="readout")


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_stopped_training_says_by_which_signal(
    number: int, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(module: IBClipModule, *_: object) -> None:
        if module.global_step == 2:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(IBClipModule, "on_train_batch_start", stop)
    handlers = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell leaves it ignored
    try:
        assert run(tmp_path / "run", "trainer.max_epochs=1", "finetune.maps=0") == status
    finally:
        for each, handler in handlers.items():  # Lightning leaves Ctrl-C ignored
            signal.signal(each, handler)
    assert "resume=true with this output_dir resumes" in capsys.readouterr().out
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.slow
def test_training_measures_the_priors_as_attribution_does(tmp_path: Path) -> None:
    """In float32 at least, though the folder's weights are bfloat16."""
    folder = save_clip_folder(tmp_path / "model")
    CLIPModel.from_pretrained(folder).to(torch.bfloat16).save_pretrained(folder)
    words = [f"model.name={folder}", "bottleneck.image.prior=data", "bottleneck.text.prior=data", "data.limit=6"]
    words += ["trainer.enable_progress_bar=false", "data.batch_size=3", "bottleneck.steps=1"]
    words += ["bottleneck.noise_samples=1", "output.tensorboard_images=0"]
    words += ["bottleneck.calibration_pairs=8"]
    training = ["task=finetune", "finetune.validation=0", "trainer.max_steps=1"]
    assert main([*words, f"output_dir={tmp_path / 'attribution'}", "output.heatmaps=0"]) == 0
    assert main([*words, *training, f"output_dir={tmp_path / 'training'}"]) == 0
    measured, expected = (
        Statistics.load(tmp_path / name / "statistics.safetensors").priors for name in ("training", "attribution")
    )
    assert set(measured) == set(expected) != set()
    for name, prior in expected.items():
        assert torch.equal(measured[name].mean, prior.mean)
        assert torch.equal(measured[name].std, prior.std)
