"""Files of layer statistics: those that hold none, or another model's, are refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from m2ib_lightning import IBClipModule, load_model
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.m2ib.statistics import Prior, Statistics

GOOD = Statistics(
    {f"{m}.{layer}": Prior(torch.zeros(8), torch.ones(8)) for m in ("image", "text") for layer in (-1, 2)}
)


def changed(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        tensors = load_file(path)
        tensors[name] = change(tensors[name]).contiguous()
        save_file(tensors, path)

    return write


def renamed(old: str, new: str) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        tensors = load_file(path)
        tensors[new] = tensors.pop(old)
        save_file(tensors, path)

    return write


def infinite(tensor: torch.Tensor) -> torch.Tensor:
    return torch.cat([tensor[:-1], torch.tensor([torch.inf])])


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "torn": (lambda path: path.write_bytes(path.read_bytes()[:-9]), "could not be read as layer statistics"),
    "torn in its header": (lambda path: path.write_bytes(path.read_bytes()[:30]), "could not be read as layer"),
    "empty": (lambda path: path.write_bytes(b""), "could not be read as layer statistics"),
    "text": (lambda path: path.write_text("{}" * 50), "could not be read as layer statistics"),
    "a folder": (as_folder, "could not be read as layer statistics"),
    "not there": (lambda path: path.unlink(), "could not be read as layer statistics"),
    "NaN": (changed("image.2.mean", lambda mean: mean * torch.nan), "image.2: mean and std must be finite"),
    "infinity": (changed("text.-1.std", infinite), "text.-1: mean and std must be finite"),
    "a negative deviation": (changed("text.2.std", lambda std: -std), "text.2: std must be positive, got -1.0"),
    "a deviation of zero": (changed("text.2.std", torch.zeros_like), "text.2: std must be positive, got 0.0"),
    "two sizes": (changed("image.2.std", lambda std: std[:5]), r"vectors of one size, got \(8,\) and \(5,\)"),
    "a matrix": (changed("image.2.std", lambda std: std[None]), r"vectors of one size, got \(8,\) and \(1, 8\)"),
    "whole numbers": (changed("image.2.std", torch.Tensor.int), "must be floating-point numbers"),
    "no deviation": (renamed("image.2.std", "image.3.std"), "image.2 must have a mean and a std"),
    "another tower": (renamed("image.2.std", "audio.2.std"), "expected tensors named like image.7.mean"),
    "no layer": (
        lambda path: save_file({"image.-2.std": torch.ones(8)}, path),
        "expected tensors named like image.7.mean",
    ),
    "a model's weights": (renamed("image.2.std", "weight"), "expected tensors named like image.7.mean"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_without_statistics(name: str, tmp_path: Path) -> None:
    path = tmp_path / "statistics.safetensors"
    GOOD.save(path)
    assert Statistics.load(path).sha256 == GOOD.sha256
    write, message = BAD[name]
    write(path)
    with pytest.raises(M2IBError, match=message) as caught:
        Statistics.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("statistics", "message"),
    [
        ({"image.1": (7, 7)}, r"statistics is of another model: image.1 has 7 channels in it, and the image tower has"),
        ({"text.-1": (500, 500)}, "text.-1 has 500 channels in it"),
        ({"image.99": (96, 96)}, "it has block 99 of the image tower, which has blocks 0 to"),
    ],
)
def test_statistics_of_another_model(statistics: dict[str, Any], message: str) -> None:
    priors = {name: Prior(torch.zeros(mean), torch.ones(std)) for name, (mean, std) in statistics.items()}
    with pytest.raises(M2IBError, match=message):
        IBClipModule(load_model("scenes"), statistics=Statistics(priors))
