"""The user's model: refused with a reason where it can't be explained, and given back bit for bit otherwise."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from m2ib_lightning import explain, load_model
from m2ib_lightning.encoder.frozen import frozen
from m2ib_lightning.errors import M2IBError
from tests.equality import assert_same_result

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
FEW = {"steps": 2, "noise_samples": 2}


def scenes() -> Any:
    return copy.deepcopy(load_model("scenes").encoder.model)


def made_in_inference_mode() -> Any:
    with torch.inference_mode():
        return scenes()


def quantised() -> Any:
    model = scenes()
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def integers() -> Any:
    model = scenes()
    layer = model.vision_model.encoder.layers[0].mlp.fc1
    layer.weight = nn.Parameter(layer.weight.detach().mul(100).to(torch.int8), requires_grad=False)
    return model


def partly_on_meta() -> Any:
    model = scenes()
    model.text_model.encoder.layers[1].to("meta")
    return model


class FullyShardedDataParallel(nn.Module):
    """A stand-in with the name of FSDP's wrapper, which needs several processes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def with_a_sharded_block() -> Any:
    model = scenes()
    blocks = model.vision_model.encoder.layers
    blocks[0] = FullyShardedDataParallel(blocks[0])
    return model


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (made_in_inference_mode, "made under torch.inference_mode"),
        (quantised, "is quantised .*Load the model without quantisation"),
        (integers, r"is quantised \(Tensor, torch.int8\)"),
        (partly_on_meta, "has no values"),
        (lambda: scenes().to("meta"), "has no values"),
        (with_a_sharded_block, "is sharded by FSDP"),
    ],
)
def test_a_model_that_can_not_be_explained_says_why(make: Callable[[], Any], reason: str) -> None:
    model, processor = make(), load_model("scenes").processor
    modes = [module.training for module in model.modules()]
    with pytest.raises(M2IBError, match=reason):
        explain(PICTURE, "a red circle", model=model, processor=processor)
    assert [module.training for module in model.modules()] == modes


def _compiled_in_parallel(model: Any) -> Any:
    compiled: Any = torch.compile(model)
    return nn.DataParallel(compiled)


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        torch.optim.swa_utils.AveragedModel,
        pytest.param(_compiled_in_parallel, marks=pytest.mark.slow),  # PyTorch's compiler takes seconds to import
    ],
)
def test_a_wrapper_that_changes_nothing_is_taken_off(wrap: Callable[[Any], Any]) -> None:
    loaded = load_model("scenes")
    expected = explain(PICTURE, "a red circle", model=loaded.encoder.model, processor=loaded.processor, bottleneck=FEW)
    wrapped: Any = wrap(scenes())
    result = explain(PICTURE, "a red circle", model=wrapped, processor=loaded.processor, bottleneck=FEW)
    assert_same_result(result, expected, 1e-6)


@pytest.mark.parametrize(
    ("half", "dtype"),
    [
        ("vision_model", torch.float32),
        ("logit_scale", torch.float64),
        ("all", torch.float32),
        pytest.param("text_projection", torch.float32, marks=pytest.mark.slow),
        pytest.param("all", torch.float64, marks=pytest.mark.slow),
    ],
)
def test_a_model_of_several_dtypes_is_given_back_bit_for_bit(half: str, dtype: torch.dtype) -> None:
    model, processor = scenes(), load_model("scenes").processor
    for name, parameter in model.named_parameters():
        if half == "all" or name.startswith(half):
            parameter.data = parameter.data.to(torch.bfloat16)
    model.register_buffer("table", torch.tensor([1 / 3], dtype=torch.float64))
    model.text_projection.weight.grad = torch.full_like(model.text_projection.weight, 1 / 3)
    before = {name: (tensor, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    gradient = model.text_projection.weight.grad
    explain(PICTURE, "a red circle", model=model, processor=processor, dtype=dtype, bottleneck=FEW)
    after = model.state_dict(keep_vars=True)
    for name, (tensor, value) in before.items():
        assert after[name] is tensor
        assert after[name].dtype == value.dtype
        assert torch.equal(after[name], value)
    assert model.text_projection.weight.grad is gradient
    assert gradient.dtype == model.text_projection.weight.dtype


def test_a_dtype_narrower_than_one_of_the_weights_is_refused() -> None:
    model = scenes()
    model.visual_projection.double()
    with pytest.raises(M2IBError, match=r"weights are torch.float64"), frozen(model, dtype=torch.float32):
        pass


def test_threads_give_what_one_gives_and_leave_the_model_as_it_was() -> None:
    loaded = load_model("scenes")
    loaded.encoder.model.train()
    captions = ["a red circle", "a blue star", "a green square", "the white triangle"]
    expected = [explain(PICTURE, caption, model=loaded, dtype=torch.float64, bottleneck=FEW) for caption in captions]
    results: dict[str, Any] = {}

    def work(caption: str) -> None:
        results[caption] = explain(PICTURE, caption, model=loaded, dtype=torch.float64, bottleneck=FEW)

    threads = [threading.Thread(target=work, args=(caption,)) for caption in captions for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for caption, alone in zip(captions, expected, strict=True):
        assert_same_result(results[caption], alone, 1e-12)
    assert all(module.training for module in loaded.encoder.model.modules())
    assert all(p.requires_grad and p.dtype == torch.float32 for p in loaded.encoder.model.parameters())
