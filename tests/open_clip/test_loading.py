"""Names of OpenCLIP's models, their files, and what is refused: nothing is downloaded, and nothing unpickled."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from m2ib_lightning import explain, load_model
from m2ib_lightning.errors import M2IBError
from tests import ROOT
from tests.open_clip.test_members import CAPTIONS, PICTURES

open_clip: Any = pytest.importorskip("open_clip", reason="make test-open-clip installs OpenCLIP")
members: Any = pytest.importorskip("tests.open_clip.members")

WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture
def folder(member: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(member("vit-bert"), tmp_path / "model"))


def load(folder: Path) -> Any:
    return load_model(f"open_clip:local-dir:{folder}")


def change(folder: Path, part: str, **values: Any) -> None:
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"][part] |= values
    path.write_text(json.dumps(config))


class Code:
    """An object whose unpickling makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_preset_and_a_plain_folder_name_are_read(folder: Path) -> None:
    (folder / "m2ib.yaml").write_text("bottleneck:\n  steps: 7\n")
    for model in (load(folder), load_model(str(folder))):
        assert model.preset.steps == 7
        assert model.folder == folder


def test_a_loaded_model_is_explained_with_its_tokenizer(member: Callable[[str], Path]) -> None:
    named = load(member("vit"))
    tokenizer = open_clip.get_tokenizer(f"local-dir:{member('vit')}")
    options: dict[str, Any] = {"bottleneck": {"steps": 2}}
    given = explain(PICTURES[0], CAPTIONS[0], model=named.encoder.model, processor=tokenizer, **options)
    assert (given.image_saliency == explain(PICTURES[0], CAPTIONS[0], model=named, **options).image_saliency).all()


def test_an_architecture_with_a_weights_file(member: Callable[[str], Path], tmp_path: Path) -> None:
    cfg = {"embed_dim": 48} | members.MEMBERS["vit"]
    (tmp_path / "m2ib-tiny.json").write_text(json.dumps(cfg))
    open_clip.add_model_config(tmp_path / "m2ib-tiny.json")
    weights = member("vit") / WEIGHTS
    model, expected = load_model(f"open_clip:m2ib-tiny/{weights}"), load(member("vit"))
    tensors = expected.encoder.model.state_dict()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.encoder.model.state_dict().items())
    with pytest.raises(M2IBError, match="no weights 'openai' for m2ib-tiny, and there is no such file"):
        load_model("open_clip:m2ib-tiny/openai")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("open_clip:ViT-B-32", "must be open_clip:ARCHITECTURE/TAG"),
        ("open_clip:ViT-B-33/openai", "no architecture 'ViT-B-33'.*Did you mean 'ViT-B-32'"),
        ("open_clip:ViT-B-32/laion2b_s34b_b79", "no weights 'laion2b_s34b_b79' for ViT-B-32.*laion2b_s34b_b79k"),
        ("open_clip:ViT-B-32/openai", "trained with QuickGELU.*Use open_clip:ViT-B-32-quickgelu/openai"),
        ("open_clip:ViT-B-32/laion2b_s34b_b79k", "(?s)could not get open_clip:ViT-B-32.*local-dir:FOLDER"),
        ("open_clip:hf-hub:nobody/nothing", "(?s)could not get open_clip:hf-hub:nobody/nothing.*local-dir:FOLDER"),
        ("open_clip:local-dir:/nowhere", "no open_clip_config.json in this folder"),
    ],
)
def test_names_that_lead_nowhere(name: str, message: str) -> None:
    with pytest.raises(M2IBError, match=message):
        load_model(name)


def test_safetensors_are_preferred_and_pickles_refused(folder: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": Code(tmp_path / "made")}, folder / "open_clip_pytorch_model.bin")
    load(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(M2IBError, match="holds more than tensors, and is not unpickled"):
        load(folder)
    assert not (tmp_path / "made").exists()


def test_pickles_are_refused_where_torch_is_told_to_read_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "open_clip_pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    load(folder)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(M2IBError, match="Unset it"):
        load(folder)


def test_weights_that_are_not_the_models(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors["visual.head.other"] = tensors.pop("visual.head.proj.weight")
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(M2IBError, match=r"visual.head.proj.weight"):
        load(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(M2IBError, match=r"must hold one weights file.*there is none"):
        load(folder)


def test_code_and_downloads_of_a_folder_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(M2IBError, match="brings Python code of its own"):
        load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(M2IBError, match=r"config\.json of somebody/absent, is not here"):
        load(folder)
    change(folder, "vision_cfg", timm_model_name="hf-hub:somebody/else")
    with pytest.raises(M2IBError, match="must be an architecture of timm"):
        load(folder)


def test_a_tokenizer_that_pads_with_a_word_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": 3}))
    with pytest.raises(M2IBError, match="pads with id 0, and the text tower masks id 3"):
        load(folder)


@pytest.mark.slow
def test_open_clip_is_not_imported_for_other_models() -> None:
    code = "import sys, tests.open_clip.cpu_build, m2ib_lightning as m; m.load_model('scenes'); "
    code += "sys.exit('open_clip' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_weights_outside_the_hub_are_not_downloaded_offline() -> None:
    from m2ib_lightning.models.open_clip_source import _download

    with pytest.raises(M2IBError, match=r"would be downloaded from https://somewhere, and HF_HUB_OFFLINE is set"):
        _download("ViT-B-32", "a_tag", {"url": "https://somewhere"})
