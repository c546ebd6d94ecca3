"""OpenAI's CLIP from its published definition, as a reference: its names, its forward pass, its files."""

from __future__ import annotations

import gzip
import warnings
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

MERGES = ("c a", "ca t</w>", "d o", "do g</w>", "r e", "re d</w>")
"""Merges of a small vocabulary, in the form of the lines of OpenAI's file."""

VOCABULARY = 256 + 256 + len(MERGES) + 2


class QuickGELU(nn.Module):
    """OpenAI's approximation of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """A pre-norm block."""

    def __init__(self, width: int, heads: int, activation: nn.Module) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        layers = [("c_fc", nn.Linear(width, 4 * width)), ("gelu", activation), ("c_proj", nn.Linear(4 * width, width))]
        self.mlp = nn.Sequential(OrderedDict(layers))
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Tokens are first: (T, B, D)."""
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """The blocks of a tower."""

    def __init__(self, width: int, layers: int, heads: int, activation: nn.Module) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList([Block(width, heads, activation) for _ in range(layers)])

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Visual(nn.Module):
    """The image tower: patches and a class token, at which it pools."""

    def __init__(self, side: int, patch: int, width: int, layers: int, heads: int, out: int, act: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn((side // patch) ** 2 + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, layers, heads, act)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.randn(width, out))

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv1(image).flatten(2).permute(0, 2, 1)  # (B, patches, D)
        first = self.class_embedding.expand(len(x), 1, -1)
        x = self.ln_pre(torch.cat([first, x], dim=1) + self.positional_embedding)
        x = self.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)
        return self.ln_post(x[:, 0]) @ self.proj


class OpenAIClip(nn.Module):
    """CLIP with random weights; norms and biases are random, too, so that none can be lost unseen."""

    def __init__(
        self,
        *,
        side: int = 32,
        patch: int = 16,
        width: int = 128,
        layers: int = 2,
        text_width: int = 64,
        text_layers: int = 2,
        context: int = 77,
        vocabulary: int = VOCABULARY,
        out: int = 48,
        heads: int | None = None,
        activation: type[nn.Module] = QuickGELU,
        long: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.visual = Visual(side, patch, width, layers, heads or width // 64, out, activation())
        self.transformer = Transformer(text_width, text_layers, text_width // 64, activation())
        self.token_embedding = nn.Embedding(vocabulary, text_width)
        self.positional_embedding = nn.Parameter(torch.randn(context, text_width))
        if long:
            self.positional_embedding_res = nn.Parameter(torch.randn(context, text_width))
        self.ln_final = nn.LayerNorm(text_width)
        self.text_projection = nn.Parameter(torch.randn(text_width, out))
        self.logit_scale = nn.Parameter(torch.tensor(2.6593))
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.ndim == 1:
                    parameter.normal_(float("ln_" in name and "weight" in name), 0.2)
                elif parameter.ndim > 1:
                    parameter.normal_(0, parameter[0].numel() ** -0.5)
        self.eval()

    def encode_image(self, image: Tensor) -> Tensor:
        return self.visual(image)

    def encode_text(self, text: Tensor) -> Tensor:
        length = text.shape[1]
        positions: Tensor = self.positional_embedding
        if hasattr(self, "positional_embedding_res"):  # LongCLIP masks both tables and adds them
            kept = (torch.arange(len(positions)) < 20).float()[:, None]
            positions = positions * kept + self.positional_embedding_res * (1 - kept)
        x = self.token_embedding(text) + positions[:length]
        mask = torch.full((length, length), float("-inf")).triu(1)
        x = self.ln_final(self.transformer(x.permute(1, 0, 2), mask).permute(1, 0, 2))
        return x[torch.arange(len(x)), text.argmax(dim=-1)] @ self.text_projection

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        return self.encode_image(image), self.encode_text(text)


def save_script(model: OpenAIClip, path: Path, numbers: dict[str, int] | None = None) -> Path:
    """Save a TorchScript archive as OpenAI did: traced, with the whole numbers as buffers."""
    for name, value in (numbers or {}).items():
        model.register_buffer(name, torch.tensor(value))
    side = model.visual.conv1.kernel_size[0] * int((len(model.visual.positional_embedding) - 1) ** 0.5)
    example = (torch.randn(1, 3, side, side), torch.randint(0, 9, (1, 5)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and shapes become constants
        torch.jit.trace(model, example, check_trace=False).save(str(path))
    return path


def save_vocabulary(folder: Path, merges: tuple[str, ...] = MERGES, rest: tuple[str, ...] = ("x y", "z z")) -> Path:
    """Save the merges as OpenAI's file does: a comment, the merges that count, and others that do not."""
    path = folder / "bpe_simple_vocab_16e6.txt.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("\n".join(["#version: 0.2", *merges, *rest, ""]))
    return path
