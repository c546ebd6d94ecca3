"""Every mistake on the command line is one clear error before any work starts, and never a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from m2ib_lightning.cli import config_names, help_text, main, parse
from m2ib_lightning.config import Config
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.run.resolved_config import to_yaml
from m2ib_lightning.tasks.commands.key_list import keys
from tests.folders import save_clip_folder

MISTAKES = [
    (["data.limt=3"], "unknown key 'data.limt'. Did you mean 'data.limit'?"),
    (["bottleneck.image.layers=3"], "Did you mean 'bottleneck.image.layer'?"),
    (["nonsense=1"], "unknown key 'nonsense'"),
    (["seed=x"], "'x' of type 'str' could not be converted to Integer. seed is int"),
    (["data.limit=2.5"], "data.limit is int"),
    (["bottleneck.image.beta=high"], "bottleneck.image.beta is float"),
    (["task=evalute"], "expected one of ['attribute', 'ground', 'evaluate', 'finetune', 'tune']"),
    (["bottleneck.preset=paper"], "expected one of ['recommended', 'published']"),
    (["model=clip"], "model is a group of keys: model.name"),
    (
        ["limit"],
        "expected key=value, --config NAME_OR_FILE or a subcommand (diff, explain, export, maps-to-masks, plan, "
        "report), got 'limit'",
    ),
    (["pln", "run"], "got 'pln'. Did you mean 'plan'?"),
    (["--config"], "--config needs a name or a file"),
    (["--config", "papr"], "Did you mean 'paper'?"),
    (["--config", "missing.yaml"], "'missing.yaml' does not exist"),
    (["trainer.max_step=3"], "no argument 'max_step' (trainer.max_step). Did you mean 'max_steps'?"),
    (["trainer.max_epochs=3"], "trainer.max_epochs=3 is refused for task=attribute: a pair is explained once"),
    (["trainer.accumulate_grad_batches=2"], "the pairs of a batch share no gradient"),
    (["trainer.gradient_clip_val=1"], "clipping would couple the pairs"),
    (["trainer.precision=bf16-true"], "must stay float32; use bf16-mixed"),
    (["trainer.precision=16-true"], "must stay float32; use bf16-mixed"),
    (["trainer.strategy=ddp"], "trainer.strategy='ddp' is refused"),
    (["trainer.strategy=fsdp"], "ranks that wait for each other hang on uneven shares"),
    (["trainer.num_nodes=2"], "trainer.num_nodes=2: set MASTER_ADDR and MASTER_PORT"),
    (["output_dir=null", "resume=true"], "resume=true needs output_dir"),
    (["retry_failed=true"], "retry_failed=true goes with resume=true"),
    (["trainer.max_steps=3"], "data.limit=N explains only the first N"),
    (["trainer.fast_dev_run=true"], "it would leave pairs out silently"),
    (["trainer.logger=tensorbord"], "'tensorbord' is no logger. There is tensorboard, csv, wandb, mlflow, a list such"),
    (["task=tune", "trainer.logger=csv"], "task=tune has no curves to log"),
    (["trainer.precision=99"], "lightning.Trainer refuses {'precision': 99}"),
    (["trainer.accelerator=gqu"], "lightning.Trainer refuses {'accelerator': 'gqu'}"),
    (["trainer=gpu"], "trainer is a group of keys"),
    (["seed=-1"], "seed must not be negative, got -1"),
    (["data.limit="], "'data.limit=' has no value; give data.limit=null for none"),
    (["data.limit=[1"], "the value is not YAML"),
    (["data.name=captions", "data.path=*.csv"], "data.path='*.csv' does not exist"),
    (["data.name=captions", "data.path=${HOME}/x.csv"], "data.path='${HOME}/x.csv' does not exist"),
    (
        ["data.name=captons"],
        "scene-course, scenes, visual-genome. Did you mean 'captions'?",
    ),
    (["data.name=captions"], "data.name=captions needs data.path"),
    (["data.name=captions", "data.path=no/pairs.csv"], "data.path='no/pairs.csv' does not exist"),
    (["data.name=captions", "data.path=fit.py"], "files must end in .csv, .tsv"),
    (["data.batch_size=0"], "data.batch_size must be at least 1, got 0"),
    (["data.num_workers=-1"], "data.num_workers must be at least 0, got -1"),
    (["data.image_timeout=0"], "data.image_timeout must be a number of seconds above 0, got 0"),
    (["data.image_timeout=.nan"], "data.image_timeout must be a number of seconds above 0, got nan"),
    (["data.fit=padd"], "fit must be one of crop, pad, stretch, or null, got 'padd'. Did you mean 'pad'?"),
    (["data.limit=0"], "data.limit must be at least 1, got 0"),
    (["data.mentioned=4"], "got data.objects=3 and data.mentioned=4"),
    (["model.name=scene"], "there is no model 'scene'"),
    (["model.name=no/such/folder"], "there is no model 'no/such/folder'"),
    (["model.name=tests"], "could not load the folder 'tests'"),
    (["model.name=fit.py"], "is a file; give the Hugging Face folder"),
    (["model.name=nobody/nothing"], "give model.name=FOLDER"),
    (["bottleneck.image.layer=3"], "(the last block's output: pooling reads one token"),
    (["bottleneck.image.layer=3"], "the layer goes from -1 (the first block's input) to 2"),
    (["bottleneck.text.layer=-2"], "bottleneck.text.layer=-2 is out of range: this tower has 3 blocks"),
    (["bottleneck.image.granularity=pixel"], "granularity must be one of element, token, got 'pixel'"),
    (["bottleneck.text.prior=datum"], "prior must be one of unit, data, got 'datum'. Did you mean 'data'?"),
    (["bottleneck.image.beta=-1"], "beta must not be negative"),
    (["bottleneck.image.sigma=0"], "sigma must be positive"),
    (["bottleneck.steps=0"], "steps must be a whole number of at least 1, got 0"),
    (["bottleneck.lr=0"], "lr must be positive"),
    (["bottleneck.statistics=none.safetensors"], "none.safetensors could not be read as layer statistics"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main([f"output_dir={run}", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert not run.exists()


def test_a_family_that_is_not_supported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert main([f"model.name={tmp_path}", f"output_dir={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert "models of class BertModel (model_type 'bert') are not supported; the supported ones are Aimv2Model" in error
    assert "m2ib_lightning.register_family" in error


def test_a_missing_column_lists_those_that_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pairs.csv").write_text("image,text\na.png,a star\n")
    assert main(["data.name=captions", f"data.path={tmp_path / 'pairs.csv'}", f"output_dir={tmp_path / 'run'}"]) == 2
    assert "no column 'caption' (data.text_column): it has image, text" in capsys.readouterr().err


def test_a_directory_that_holds_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    assert main([f"output_dir={tmp_path}"]) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert (tmp_path / "config.yaml").read_text() == "seed: 0\n"


def test_a_preset_with_a_mistake_names_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_clip_folder(tmp_path / "clip")
    (folder / "m2ib.yaml").write_text("bottleneck: {image: {layr: 3}}\n")
    assert main([f"model.name={folder}", f"output_dir={tmp_path / 'run'}"]) == 2
    assert "m2ib.yaml: unknown key bottleneck.image.layr" in capsys.readouterr().err


def test_the_order_is_schema_file_command_line(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("seed: 4\ndata: {limit: 7}\n")
    config = parse(["--config", str(tmp_path / "mine.yaml"), "--data.limit=9"])
    assert isinstance(config, Config)
    assert (config.seed, config.data.limit, config.data.name) == (4, 9, "scenes")


@pytest.mark.parametrize("text", ["007", "2024_01", "12:30", "1e3", "yes", "a #b", "[x].csv", "${x}", "@a", "null1"])
def test_text_on_the_command_line_stays_as_typed(text: str, tmp_path: Path) -> None:
    config = parse([f"output_dir={text}"])
    assert isinstance(config, Config)
    assert config.output_dir == text
    (tmp_path / "again.yaml").write_text(to_yaml(config))
    again = parse(["--config", str(tmp_path / "again.yaml")])
    assert isinstance(again, Config)
    assert again.output_dir == text


@pytest.mark.parametrize("name", ["model.safetensors", "m2ib.yaml"])
def test_a_broken_file_in_a_model_folder(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_clip_folder(tmp_path / "clip")
    (folder / name).write_text("version: [https://git-lfs.github.com/spec/v1\n")
    assert main([f"model.name={folder}", f"output_dir={tmp_path / 'run'}"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_config_may_not_hold_an_unknown_key(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("data: {limt: 7}\n")
    with pytest.raises(M2IBError, match=r"mine\.yaml: unknown key 'data\.limt'"):
        parse(["--config", str(tmp_path / "mine.yaml")])


def test_help_lists_every_key() -> None:
    text = help_text()
    for key in keys():
        assert f"  {key.name} ({key.type}, default {key.default})" in text
        assert key.help
    for name in config_names():
        assert name in text


@pytest.mark.parametrize("name", config_names())
def test_every_config_loads_and_every_key_is_explained(name: str) -> None:
    config = parse(["--config", name])
    assert isinstance(config, Config)
    assert OmegaConf.create(to_yaml(config)).task == config.task
    for line in (Path("configs") / f"{name}.yaml").read_text().splitlines():
        if line.strip() and not line.strip().startswith(("#", "- ")):  # an item of a list is explained above it
            key, _, value = line.partition(":")
            assert not value.partition("#")[0].strip() or "#" in value, f"{key.strip()} has no comment"


def test_help_and_typos_need_no_torch() -> None:
    code = (
        "import sys; from m2ib_lightning.cli import main; main(['--help']); main(['dif']); main(['seeed=1']); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
