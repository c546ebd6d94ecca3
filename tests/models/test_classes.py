"""The class of a folder decides what it is, and the list of models says what there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from m2ib_lightning import list_models, load_model
from m2ib_lightning.cli import main
from m2ib_lightning.encoder.families import register_family
from m2ib_lightning.encoder.families.family import TowerSpec, family_of, refused_families
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.models.catalogue import models_markdown
from m2ib_lightning.models.load import wrap_model
from tests import ROOT
from tests.zoo import MEMBERS, make_member


def save(folder: Path, name: str) -> Any:
    member = make_member(name)
    member.model.save_pretrained(folder)
    member.processor.save_pretrained(folder)
    return member


def change_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps(config))


def test_the_class_in_the_config_is_loaded_where_auto_model_takes_another(tmp_path: Path) -> None:
    save(tmp_path, "BlipForImageTextRetrieval")
    assert type(load_model(str(tmp_path)).encoder.model).__name__ == "BlipForImageTextRetrieval"
    assert transformers.MODEL_MAPPING[transformers.BlipConfig].__name__ == "BlipModel"


@pytest.mark.parametrize(
    ("architectures", "message"),
    [
        (["BiomedCLIPModel"], "config.json names the class 'BiomedCLIPModel'.*which transformers .* does not have"),
        (["CLIPVisionModelWithProjection"], "models of class CLIPVisionModelWithProjection .* are not supported"),
        (["BertModel"], "models of class BertModel .* are not supported"),
        (["XCLIPModel"], "models of class XCLIPModel can't be explained: it embeds videos"),
    ],
)
def test_another_class_of_the_same_type_is_not_taken_for_clip(
    architectures: list[str], message: str, tmp_path: Path
) -> None:
    save(tmp_path, "CLIPModel")
    change_config(tmp_path, architectures=architectures)
    with pytest.raises(M2IBError, match=message):
        load_model(str(tmp_path))


def test_without_a_class_the_type_decides(tmp_path: Path) -> None:
    save(tmp_path, "MetaClip2Model")
    change_config(tmp_path, architectures=None)
    assert type(load_model(str(tmp_path)).encoder.model).__name__ == "MetaClip2Model"


def test_a_model_for_another_task_gives_the_image_text_model_in_it(tmp_path: Path) -> None:
    clipseg = make_member("CLIPSegModel")
    whole = transformers.CLIPSegForImageSegmentation(clipseg.model.config)
    whole.save_pretrained(tmp_path)
    clipseg.processor.save_pretrained(tmp_path)
    assert type(load_model(str(tmp_path)).encoder.model).__name__ == "CLIPSegModel"
    assert wrap_model(whole, clipseg.processor).encoder.model is whole.clip


def test_a_class_without_a_family_says_what_there_is_and_a_subclass_has_its_parents() -> None:
    class Own(transformers.CLIPModel):
        pass

    assert family_of(Own(make_member("CLIPModel").model.config)) is family_of(make_member("CLIPModel").model)
    align = transformers.AlignModel(
        transformers.AlignConfig(
            text_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 8},
            vision_config={"image_size": 64, "width_coefficient": 0.5, "depth_coefficient": 0.3, "hidden_dim": 640},
        )
    )
    with pytest.raises(M2IBError, match="convolutional network"):
        family_of(align)


def test_unknown_towers_of_a_dual_encoder_are_named() -> None:
    model = make_member("VisionTextDualEncoderModel").model
    model.config.text_config.model_type = "electra"
    with pytest.raises(M2IBError, match=r"text tower of this dual encoder is a 'electra'.*bert, roberta"):
        family_of(model)


def test_a_tower_needs_one_way_to_pool() -> None:
    spec = family_of(make_member("CLIPModel").model).image
    with pytest.raises(ValueError, match=r"either pooled= .* or pool="):
        TowerSpec(spec.embed, spec.blocks, spec.head, spec.max_tokens, spec.width)


def test_every_member_of_the_list_is_in_the_tests_and_in_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    tested = {name.partition("-")[0] for name in MEMBERS}
    listed = {model.cls for model in list_models() if model.tested == "random weights"}
    of_open_clip = {name for name in listed if name.startswith("open_clip.")}  # tests/open_clip has its members
    assert listed - of_open_clip <= tested
    assert main(["--models"]) == 0
    printed = capsys.readouterr().out
    for model in list_models():
        assert model.cls in printed
    for name in refused_families():
        assert f"{name}: " in printed
    assert models_markdown() in (ROOT / "README.md").read_text(), "run python scripts/write_models.py"


def test_a_family_is_registered_once() -> None:
    with pytest.raises(ValueError, match="the model family 'CLIPModel' is registered already"):
        register_family("CLIPModel", family_of(make_member("CLIPModel").model))
