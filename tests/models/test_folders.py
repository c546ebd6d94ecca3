"""Model folders: every weight comes from the file, the processor fits the model, and no code of the folder runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from m2ib_lightning import load_model
from m2ib_lightning.cli import main
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.models.load import BUNDLED
from tests.folders import save_clip_folder, save_siglip_folder

Weights = dict[str, torch.Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLED["scenes"], tmp_path / "model"))


def change_weights(folder: Path, change: Callable[[Weights], Weights]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def change_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: {k: v for k, v in w.items() if "visual_projection" not in k},
            "1 missing .*visual_projection.*incomplete",
        ),
        (lambda w: {k: v for k, v in w.items() if "text_model" not in k}, "52 missing .*incomplete"),
        (lambda w: {k: v for k, v in w.items() if k != "logit_scale"}, "1 missing .*logit_scale"),
        (lambda w: {f"module.{k}": v for k, v in w.items()}, "saved from DataParallel"),
        (lambda w: {f"_orig_mod.{k}": v for k, v in w.items()}, "saved from torch.compile"),
        (lambda w: {f"base_model.model.{k}": v for k, v in w.items()}, "merge_and_unload"),
        (lambda w: {k.replace("layers", "blocks"): v for k, v in w.items()}, "The weights have other names"),
        (
            lambda w: w | {"adapter.weight": torch.ones(3)},
            r"1 in the file that the model does not have \(adapter.weight",
        ),
        (lambda w: w | {"visual_projection.lora_A.weight": torch.ones(3)}, "holds adapters"),
    ],
)
def test_weights_that_are_not_those_of_the_configuration_are_refused(
    change: Callable[[Weights], Weights], message: str, folder: Path
) -> None:
    change_weights(folder, change)
    with pytest.raises(M2IBError, match=f"weights are not those of the model in config.json.*{message}"):
        load_model(str(folder))


def _set_blocks(count: int, config: dict[str, Any]) -> None:
    config["vision_config"]["num_hidden_layers"] = count


def test_a_configuration_of_more_or_fewer_blocks_is_refused(folder: Path) -> None:
    for blocks, message in ((5, "16 missing"), (3, "16 in the file that the model does not have.*of a larger model")):
        change_json(folder / "config.json", partial(_set_blocks, blocks))
        with pytest.raises(M2IBError, match=message):
            load_model(str(folder))


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    change_weights(folder, lambda w: w | {"visual_projection.weight": w["visual_projection.weight"][:40].clone()})
    with pytest.raises(M2IBError, match=r"1 of another shape \(visual_projection.weight"):
        load_model(str(folder))


def test_position_ids_in_the_file_are_silent(folder: Path) -> None:
    ids = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    change_weights(folder, lambda w: w | ids)
    assert load_model(str(folder)).encoder.family is not None


def processor_file(folder: Path) -> Path:
    return next(
        folder / name for name in ("processor_config.json", "preprocessor_config.json") if (folder / name).exists()
    )


def sized(**sizes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.get("image_processor", content).update(sizes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (sized(crop_size={"height": 48, "width": 48}, size={"shortest_edge": 48}), "pictures of 48 x 48 pixels"),
        (sized(crop_size={"height": 96, "width": 48}), "pictures of 48 x 96 pixels"),
        (sized(crop_size={"height": 10_000, "width": 10_000}), "sides must be from 1 to 4096 pixels"),
        (sized(crop_size={"height": 0, "width": 0}), "sides must be from 1 to 4096 pixels"),
        (sized(do_center_crop=False, size={"height": 80, "width": 80}), "pictures of 80 x 80 pixels"),
        (sized(crop_size={"height": 63, "width": 63}), "pictures of 63 x 63 pixels"),
    ],
)
def test_a_processor_of_another_size_is_refused_before_a_run_directory_exists(
    change: Callable[[dict[str, Any]], None],
    message: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change_json(processor_file(folder), change)
    assert main([f"model.name={folder}", "data.limit=2", f"output_dir={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "processor_config.json" in error
    assert "config.json (image_size=64" in error
    assert not (tmp_path / "run").exists()


def test_a_tower_of_other_channels_is_refused(tmp_path: Path) -> None:
    folder = save_clip_folder(tmp_path / "model")
    change_json(folder / "config.json", lambda c: c["vision_config"].update(num_channels=1))
    weights = load_file(folder / "model.safetensors")
    name = "vision_model.embeddings.patch_embedding.weight"
    save_file(weights | {name: weights[name][:, :1].clone()}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(M2IBError, match=r"num_channels=1\) does not take them"):
        load_model(str(folder))


def test_padding_on_the_other_side_is_refused_where_padding_is_read(tmp_path: Path) -> None:
    siglip, clip = save_siglip_folder(tmp_path / "siglip"), save_clip_folder(tmp_path / "clip")
    for folder in (siglip, clip):
        load_model(str(folder))
        change_json(folder / "tokenizer_config.json", lambda content: content.update(padding_side="left"))
    with pytest.raises(
        M2IBError, match=r"tokenizer_config.json says padding_side='left'.*config.json reads the padding"
    ):
        load_model(str(siglip))
    load_model(str(clip))  # its tower does not read padding, which is put on the right


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(model_type="evil", auto_map={"AutoConfig": "evil.X", "AutoModel": "evil.X"}),
        lambda c: c.update(auto_map={"AutoModel": "evil.X"}),
        lambda c: c.update(auto_map={"AutoConfig": "evil.X", "AutoModel": "evil.X"}),
    ],
)
def test_code_in_a_folder_is_never_run_and_nothing_is_asked(
    change: Callable[[dict[str, Any]], None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "evil.py").write_text(f"open({str(folder / 'RAN')!r}, 'w')\nclass X: pass\n")
    change_json(folder / "config.json", change)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    with pytest.raises(M2IBError, match=r"Python code of its own .* never run"):
        load_model(str(folder))
    assert not (folder / "RAN").exists()


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config.json", "[]"),
        ("config.json", '{"model_type": "clip", "vision_config": 3}'),
        ("config.json", '{"model_type": "clip", "vision_config": {"hidden_size": "wide"}}'),
        ("config.json", "{" * 5000),
        ("tokenizer.json", '{"model": null}'),
        ("tokenizer_config.json", "3"),
        ("processor_config.json", '{"image_processor": {"size": "big"}}'),
    ],
)
def test_a_damaged_folder_is_a_message(
    file: str, text: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / file).write_text(text)
    assert main([f"model.name={folder}", "data.limit=2", f"output_dir={tmp_path / 'run'}"]) == 2
    assert "error: " in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
