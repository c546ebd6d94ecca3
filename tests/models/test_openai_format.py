"""Checkpoints in OpenAI's format: the embeddings of OpenAI's own forward pass, and each tensor used once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from m2ib_lightning import explain, load_model
from m2ib_lightning.cli import main
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.models.load import LoadedModel
from tests.folders import save_photograph
from tests.openai_clip import MERGES, VOCABULARY, OpenAIClip, save_script, save_vocabulary

State = dict[str, Tensor]
CAPTIONS = ["a red cat", "dog", "a cat, a dog & a bird"]
NUMBERS = {"input_resolution": 32, "context_length": 77, "vocab_size": VOCABULARY}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_vocabulary(tmp_path)
    return tmp_path


def load(path: Path) -> LoadedModel:
    return load_model(f"openai:{path}")


def save(folder: Path, content: Any) -> Path:
    torch.save(content, path := folder / "clip.pt")
    return path


@torch.no_grad()
def difference(loaded: LoadedModel, reference: OpenAIClip) -> float:
    """Largest difference between the embeddings of Hugging Face's model and the reference's, relative to the size."""
    model, processor = loaded.encoder.model, loaded.processor
    side = model.config.vision_config.image_size
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    tokens = processor.tokenizer(CAPTIONS, padding=True, return_tensors="pt")
    pairs = (
        (model.get_image_features(pixel_values=pixels).pooler_output, reference.encode_image(pixels)),
        (model.get_text_features(**tokens).pooler_output, reference.encode_text(tokens["input_ids"])),
    )
    return max(((ours - theirs).abs().max() / theirs.abs().max()).item() for ours, theirs in pairs)


def plain(model: OpenAIClip, folder: Path) -> Path:
    return save(folder, model.state_dict())


def with_numbers(model: OpenAIClip, folder: Path) -> Path:
    mask = torch.full((77, 77), float("-inf")).triu(1)
    beside: State = {name: torch.tensor(value) for name, value in NUMBERS.items()}
    beside |= {f"transformer.resblocks.{block}.attn_mask": mask for block in range(len(model.transformer.resblocks))}
    return save(folder, model.state_dict() | beside)


def nested(model: OpenAIClip, folder: Path) -> Path:
    return save(folder, {"state_dict": {f"module.{name}": value for name, value in model.state_dict().items()}})


def before_torch_1_6(model: OpenAIClip, folder: Path) -> Path:
    torch.save(model.state_dict(), path := folder / "clip.pt", _use_new_zipfile_serialization=False)
    return path


def safetensors(model: OpenAIClip, folder: Path) -> Path:
    save_file(model.state_dict(), path := folder / "clip.safetensors")
    return path


def script(model: OpenAIClip, folder: Path) -> Path:
    return save_script(model, folder / "clip.pt", NUMBERS)


@pytest.mark.parametrize("form", [plain, with_numbers, nested, before_torch_1_6, safetensors, script])
def test_each_form_gives_the_embeddings_of_the_published_forward_pass(
    form: Callable[[OpenAIClip, Path], Path], folder: Path
) -> None:
    reference = OpenAIClip()
    loaded = load(form(reference, folder))
    assert difference(loaded, reference) < 1e-5
    assert loaded.encoder.model.logit_scale == reference.logit_scale
    assert not loaded.encoder.model.training


def test_other_weights_give_other_embeddings(folder: Path) -> None:
    """The comparison can fail: a text tower without causal mask, a lost bias or swapped queries and keys would show."""
    reference = OpenAIClip()
    state = dict(reference.state_dict())
    name = "transformer.resblocks.1.attn.in_proj_weight"
    query, key, value = state[name].chunk(3)
    state[name] = torch.cat([key, query, value])
    assert difference(load(save(folder, state)), reference) > 1e-3


def test_quick_gelu_unless_the_file_beside_it_says_otherwise(folder: Path) -> None:
    quick, exact = OpenAIClip(), OpenAIClip(activation=nn.GELU)
    path = save(folder, quick.state_dict())  # the same weights as those of the other
    sizes = {
        "embed_dim": 48,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 128, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": VOCABULARY, "width": 64, "heads": 1, "layers": 2},
    }
    said: list[tuple[str, Any, OpenAIClip]] = [
        ("another.json", {"quick_gelu": False}, quick),
        ("open_clip_config.json", {"model_cfg": sizes}, exact),
        ("clip.json", {"model_cfg": sizes | {"quick_gelu": True}}, quick),
        ("clip.pt.json", {"quick_gelu": False}, exact),
    ]  # the later ones come before the earlier ones
    for name, content, reference in said:
        (folder / name).write_text(json.dumps(content))
        loaded = load(path)
        assert difference(loaded, reference) < 1e-5
        assert difference(loaded, quick if reference is exact else exact) > 1e-4


def test_a_training_s_file_warns_that_it_does_not_say_the_activation(folder: Path) -> None:
    reference = OpenAIClip()
    tensors = {f"module.{name}": value for name, value in reference.state_dict().items()}
    path = save(folder, {"epoch": 3, "name": "run", "state_dict": tensors, "optimizer": {"state": {}}})
    with pytest.warns(UserWarning, match=r"that of a training \(it has epoch, name, optimizer\).*clip.pt.json"):
        assert difference(load(path), reference) < 1e-5
    (folder / "clip.pt.json").write_text('{"quick_gelu": true}')
    assert difference(load(path), reference) < 1e-5


def test_sizes_are_those_of_the_tensors(folder: Path) -> None:
    reference = OpenAIClip(side=48, patch=8, width=64, layers=1, text_width=128, text_layers=3, context=20, out=128)
    loaded = load(save(folder, reference.state_dict()))
    image, text = loaded.encoder.model.config.vision_config, loaded.encoder.model.config.text_config
    assert (image.image_size, image.patch_size, image.num_hidden_layers, image.num_attention_heads) == (48, 8, 1, 1)
    assert (text.max_position_embeddings, text.num_hidden_layers, text.num_attention_heads) == (20, 3, 2)
    assert loaded.processor.tokenizer.model_max_length == 20
    assert difference(loaded, reference) < 1e-5


def test_the_two_position_tables_of_longclip(folder: Path) -> None:
    reference = OpenAIClip(context=248, long=True)
    loaded = load(save(folder, reference.state_dict()))
    assert difference(loaded, reference) < 1e-5  # captions of fewer than 20 tokens
    long = loaded.processor.tokenizer(["a red cat " * 20], return_tensors="pt")["input_ids"]
    assert long.shape[1] > 40
    with torch.no_grad():
        ours = loaded.encoder.model.get_text_features(input_ids=long).pooler_output
        torch.testing.assert_close(ours, reference.encode_text(long), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "visual.proj",
        "visual.positional_embedding",
        "visual.transformer.resblocks.1.attn.in_proj_weight",
        "transformer.resblocks.0.mlp.c_fc.weight",
        "transformer.resblocks.1.ln_2.bias",
        "token_embedding.weight",
        "logit_scale",
    ],
)
def test_a_renamed_tensor_is_refused_by_name(name: str, folder: Path) -> None:
    state = dict(OpenAIClip().state_dict())
    state[f"{name}_x"] = state.pop(name)
    with pytest.raises(M2IBError) as error:
        load(save(folder, state))
    message = str(error.value)
    assert "its weights are not those of OpenAI's CLIP" in message
    assert f"1 missing from the file, which would be random ({name})" in message
    assert f"1 in the file that the model does not have ({name}_x)" in message


def without(name: str) -> Callable[[State], Any]:
    return lambda state: {key: value for key, value in state.items() if key != name}


def with_(**tensors: Any) -> Callable[[State], Any]:
    return lambda state: state | {name.replace("__", "."): value for name, value in tensors.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("logit_scale"), r"1 missing .*\(logit_scale\)"),
        (with_(logit_bias=torch.zeros(())), r"1 in the file that the model does not have \(logit_bias\)"),
        (
            with_(visual__proj=torch.ones(128, 47)),
            r"1 of another shape \(visual.proj: expected \(128, 48\), got",
        ),
        (with_(visual__proj=torch.ones(128, 48).int()), "'visual.proj' must be a tensor of floating-point numbers"),
        (with_(visual__proj=[1, 2]), "'visual.proj' must be a tensor of floating-point numbers, and is a list"),
        (with_(visual__positional_embedding=torch.ones(7, 128)), "has 7 rows; expected is one for the class token"),
        (with_(token_embedding__weight=torch.ones(5)), r"token_embedding.weight must have 2 dimensions, got .*\(5,\)"),
        (with_(input_resolution=torch.tensor(64)), "input_resolution=64, and its tensors have 2 patches of 16 pixels"),
        (with_(context_length=torch.tensor(76)), "says context_length=76, and its tensors have 77"),
        (with_(vocab_size=torch.tensor(9)), f"says vocab_size=9, and its tensors have {VOCABULARY}"),
        (with_(vocab_size="many"), "vocab_size must be a whole number, got 'many'"),
        (with_(transformer__resblocks__0__attn_mask=torch.zeros(77, 77)), r"not have \(transformer.resblocks.0.attn_m"),
        (with_(transformer__resblocks__9__ln_1__bias=torch.zeros(64)), r"not have \(transformer.resblocks.9.ln_1.bias"),
        (with_(visual__layer1__0__conv1__weight=torch.ones(3)), "image tower is a ResNet.*the bottleneck needs a ViT"),
        (with_(visual__trunk__norm__weight=torch.ones(3)), "its image tower is timm's"),
        (with_(ema__visual__conv1__weight=torch.ones(3)), "has several models: visual.conv1.weight is there as"),
        (with_(token_embedding__weight=torch.ones(1, 1).expand(9**9, 64)), "claim more numbers than the file has"),
        (lambda state: {"vision_model.post_layernorm.weight": torch.ones(3)}, "Hugging Face's names: give the folder"),
        (lambda state: {"weight": torch.ones(3)}, r"5 missing .*text_projection.*1 in the file .*\(weight\)"),
        (lambda state: list(state.values()), "it holds a list, not names and tensors"),
    ],
)
def test_another_model_s_tensors_are_refused(change: Callable[[State], Any], message: str, folder: Path) -> None:
    path = save(folder, change(OpenAIClip().state_dict()))
    with pytest.raises(M2IBError, match=message):
        load(path)


def test_heads_that_the_file_does_not_say_are_asked_for(folder: Path) -> None:
    reference = OpenAIClip(width=80, heads=5, layers=1)
    huge = {"visual.conv1.weight": torch.ones(1280, 3, 16, 16)}  # ViT-H's, a multiple of 64 with heads of 80
    for width, state in ((1280, reference.state_dict() | huge), (80, reference.state_dict())):
        with pytest.raises(M2IBError, match=rf'image tower is {width} wide, .*clip.pt.json .*"head_width": 80'):
            load(save(folder, state))
    content = {"vision_cfg": {"width": 80, "head_width": 16}, "quick_gelu": True}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": content}))
    loaded = load(folder / "clip.pt")
    assert loaded.encoder.model.config.vision_config.num_attention_heads == 5
    assert difference(loaded, reference) < 1e-5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model_cfg": {"vision_cfg": {"layers": 12}}}, "says vision_cfg.layers=12, and the tensors .* say 2"),
        ({"text_cfg": {"hf_model_name": "bert"}}, "text_cfg has 'hf_model_name': 'bert', with which"),
        ({"vision_cfg": {"image_size": 64}}, "image_size=64, and the checkpoint has 2 x 2 patches"),
        ({"vision_cfg": {"head_width": 0}}, "head_width must be a whole number from 1, got 0"),
        ({"vision_cfg": {"head_width": 48}, "text_cfg": {"heads": 3}}, "text tower's width 64 can't be split into 3"),
        ({"vision_cfg": [1]}, r"vision_cfg must hold keys and values, got \[1\]"),
        ({"preprocess_cfg": {"mean": [0.5]}}, "mean must be three numbers"),
        ({"preprocess_cfg": {"std": [1, 1, 0]}}, "std must be three numbers"),
        ({"preprocess_cfg": {"resize_mode": "longest"}}, "resize_mode='longest' is not supported"),
        ([1], r"must hold keys and values in open_clip's form, got \[1\]"),
    ],
)
def test_a_file_beside_it_that_does_not_fit_is_refused(content: Any, message: str, folder: Path) -> None:
    path = save(folder, OpenAIClip().state_dict())
    (folder / "clip.json").write_text(json.dumps(content))
    with pytest.raises(M2IBError, match=message):
        load(path)


def test_pictures_are_prepared_as_clip_s_or_as_the_file_says(folder: Path) -> None:
    path = save(folder, OpenAIClip().state_dict())
    processor = load(path).processor.image_processor
    assert processor.image_mean == pytest.approx([0.48145466, 0.4578275, 0.40821073])
    assert dict(processor.crop_size) == {"height": 32, "width": 32}
    assert processor.size["shortest_edge"] == 32
    content = {"mean": [0.4] * 3, "std": [0.3] * 3, "resize_mode": "squash", "interpolation": "bilinear", "size": 32}
    (folder / "clip.json").write_text(json.dumps({"preprocess_cfg": content}))
    loaded = load(path)
    processor = loaded.processor.image_processor
    assert (*processor.image_mean, *processor.image_std, processor.resample) == (*[0.4] * 3, *[0.3] * 3, 2)
    assert (dict(processor.size), processor.do_center_crop) == ({"height": 32, "width": 32}, False)
    assert loaded.encoder.model.config.text_config.hidden_act == "quick_gelu"  # the file says nothing of the model


def test_half_weights_stay_half_and_several_dtypes_become_the_widest(folder: Path, tmp_path: Path) -> None:
    state = OpenAIClip().state_dict()
    half = {name: tensor.half() for name, tensor in state.items()}
    loaded = load(save(folder, half))
    assert {parameter.dtype for parameter in loaded.encoder.model.parameters()} == {torch.float16}
    result = explain(save_photograph(tmp_path / "cat.jpg", 40, 32), "a red cat", model=loaded)
    assert result.image_saliency.sum() > 0
    mixed = {name: tensor if "ln_" in name else half[name] for name, tensor in state.items()}
    model = load(save(folder, mixed)).encoder.model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.vision_model.post_layernorm.weight, state["visual.ln_post.weight"])
    assert torch.equal(model.visual_projection.weight, half["visual.proj"].float().T)


def test_the_model_does_not_share_memory_with_the_file(folder: Path) -> None:
    reference = OpenAIClip()
    path = save(folder, reference.state_dict())
    loaded = load(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert difference(loaded, reference) < 1e-5


def test_the_preset_beside_it_is_read(folder: Path) -> None:
    path = save(folder, OpenAIClip().state_dict())
    (folder / "m2ib.yaml").write_text("bottleneck:\n  image:\n    layer: 1\n  steps: 7\n")
    assert load(path).preset.steps == 7


@pytest.mark.slow
@pytest.mark.parametrize("form", [plain, script])
def test_the_command_explains_pairs_with_it(form: Callable[[OpenAIClip, Path], Path], folder: Path) -> None:
    path = form(OpenAIClip(), folder)
    save_photograph(folder / "cat.jpg", 48, 40)
    (folder / "pairs.csv").write_text("image,caption\ncat.jpg,a red cat\ncat.jpg,dog\n")
    run = folder / "run"
    words = [f"model.name=openai:{path}", "data.name=captions", f"data.path={folder / 'pairs.csv'}"]
    assert main([*words, f"output_dir={run}", "bottleneck.steps=1", "output.heatmaps=0"]) == 0
    table = pd.read_parquet(run / "attributions")
    assert table["error"].isna().all()
    assert list(table["tokens"][0]) == ["a", "red", "cat"]
    assert all(len(saliency) == 4 and min(saliency) > 0 for saliency in table["image_saliency"])


def test_names_that_are_no_checkpoint(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(M2IBError, match=r"there is no file '.*ViT-B/32': openai: takes the path"):
        load(folder / "ViT-B/32")
    with pytest.raises(M2IBError, match="is a folder: give a file"):
        load(folder)
    path = save(folder, OpenAIClip().state_dict())
    assert main([f"model.name={path}"]) == 2
    assert f"or model.name=openai:{path} if it is a checkpoint in OpenAI CLIP's format" in capsys.readouterr().err


def full_script(model: OpenAIClip, folder: Path) -> Path:
    return save_script(model, folder / "clip.pt", {"input_resolution": 224, "context_length": 77, "vocab_size": 49408})


@pytest.mark.slow
@pytest.mark.parametrize("form", [plain, full_script])
def test_vit_b_32_in_its_own_shape(form: Callable[[OpenAIClip, Path], Path], tmp_path: Path) -> None:
    symbols = [chr(code) for code in [*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 290)]]
    merges = dict.fromkeys([*MERGES, *(f"{first} {second}" for first in symbols for second in symbols)])
    save_vocabulary(tmp_path, tuple(merges)[: 49408 - 514])
    sizes = {"side": 224, "patch": 32, "width": 768, "layers": 12, "text_width": 512, "text_layers": 12, "out": 512}
    reference = OpenAIClip(**sizes, vocabulary=49408)  # type: ignore[arg-type]
    loaded = load(form(reference, tmp_path))
    heads = [getattr(loaded.encoder.model.config, f"{t}_config").num_attention_heads for t in ("vision", "text")]
    assert heads == [12, 8]
    assert difference(loaded, reference) < 1e-5
