"""Tiny models of the real classes of every family, with random weights and real processors.

The weights are large enough that each norm, bias, position and token matters: a norm whose weights are 1 hides a norm
that is applied twice.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import transformers
from tokenizers import processors

from m2ib_lightning.scenes.tokenizer import BOS, BOS_ID, EOS, EOS_ID, PAD_ID, build_tokenizer
from tests.folders import word_tokenizer

SIDE, PATCH = 32, 8
WORDS = ("a", "red", "circle", "blue", "star", "and", "green", "square", "the", "next", "to")
_SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
_VISION = _SIZES | {"hidden_size": 48, "image_size": SIDE, "patch_size": PATCH}
_SQUARE = {"height": SIDE, "width": SIDE}


class Member(NamedTuple):
    """A tiny model, its processor, and what an oracle must know of it.

    Attributes:
        model: the model.
        processor: its processor.
        image_blocks: attribute path of the image tower's blocks.
        text_blocks: likewise, of the text tower.
        own_image: function (model, inputs) -> (B, E) by the untouched model; None for ``get_image_features``.
        own_text: likewise, of captions.
    """

    model: Any
    processor: Any
    image_blocks: str = "vision_model.encoder.layers"
    text_blocks: str = "text_model.encoder.layers"
    own_image: Callable[[Any, dict[str, Any]], torch.Tensor] | None = None
    own_text: Callable[[Any, dict[str, Any]], torch.Tensor] | None = None

    def blocks(self, modality: str) -> Any:
        """Return the blocks of a tower."""
        return self.model.get_submodule(self.image_blocks if modality == "image" else self.text_blocks)

    def embed(self, modality: str, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the embeddings (B, E) of the untouched model."""
        own = self.own_image if modality == "image" else self.own_text
        if own is not None:
            return own(self.model, inputs)
        embedding: torch.Tensor = getattr(self.model, f"get_{modality}_features")(**inputs).pooler_output
        return embedding


def make_member(name: str) -> Member:
    """Make the tiny model of a family, by the name of its class or of its variant."""
    torch.manual_seed(0)
    member = MEMBERS[name]()
    randomise(member.model)
    return member


@torch.no_grad()
def randomise(model: Any, seed: int = 0) -> None:
    """Draw all weights of a model: matrices that keep the scale, norms around 1, biases, positions."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.numel() <= 1:
            continue
        drawn = torch.randn(parameter.shape, generator=generator)
        if "embed" in name and parameter.ndim >= 2 and "patch" not in name:
            parameter.copy_(0.5 * drawn)
        elif parameter.ndim >= 2:
            parameter.copy_(drawn * (0.7 / parameter[0].numel() ** 0.5))
        else:
            parameter.copy_(0.1 * drawn if "bias" in name else 1 + 0.2 * drawn)
    model.eval()


def _image_processor(name: str, **options: Any) -> Any:
    """Make an image processor of transformers that uses Pillow, by the class name without ``ImageProcessor``."""
    cls = getattr(transformers, f"{name}ImageProcessorPil")
    return cls(**({"size": _SQUARE} | options))


def _crop(name: str = "CLIP") -> Any:
    return _image_processor(name, size={"shortest_edge": SIDE}, crop_size=_SQUARE)


def _bert_tokenizer() -> Any:
    letters = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS[1:], *letters]
    return transformers.BertTokenizer(vocab={word: index for index, word in enumerate(vocabulary)}, model_max_length=20)


def _xlm_roberta_tokenizer() -> Any:
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(f"▁{word}", -3.0) for word in WORDS] + [("▁", -4.0)]
    pieces += [(letter, -6.0) for letter in string.ascii_lowercase] + [("<mask>", 0.0)]
    return transformers.XLMRobertaTokenizer(vocab=pieces, model_max_length=20)


def _gemma_tokenizer() -> Any:
    vocabulary = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "<mask>": 4}
    for letter in f"▁{string.ascii_lowercase}.,":
        vocabulary[letter] = len(vocabulary)
    tokenizer = transformers.GemmaTokenizer(vocab=vocabulary, merges=[], model_max_length=24, padding_side="right")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    return tokenizer


def _clip_text(**options: Any) -> dict[str, Any]:
    return _SIZES | {
        "vocab_size": len(build_tokenizer()),
        "max_position_embeddings": 32,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "pad_token_id": PAD_ID,
        **options,
    }


def _bert_text(**options: Any) -> dict[str, Any]:
    return _SIZES | {"vocab_size": len(_bert_tokenizer()), "max_position_embeddings": 20, **options}


def _xlm_text(**options: Any) -> dict[str, Any]:
    return _SIZES | {"vocab_size": len(_xlm_roberta_tokenizer()), **options}


def _like_clip(name: str, processor: Any = None, image_processor: Any = None, **text: Any) -> Member:
    config = getattr(transformers, f"{name}Config")(
        text_config=_clip_text(**text), vision_config=_VISION, projection_dim=24
    )
    processor = processor or transformers.CLIPProcessor
    return Member(
        getattr(transformers, f"{name}Model")(config), processor(image_processor or _crop(), build_tokenizer())
    )


def _owl(name: str) -> Member:
    tokenizer = word_tokenizer(["<unk>", BOS], EOS, f"{BOS} $A {EOS}", 32)  # the end of text has the largest id
    text = _clip_text(vocab_size=len(tokenizer), eos_token_id=len(tokenizer) - 1)
    config = getattr(transformers, f"{name}Config")(text_config=text, vision_config=_VISION, projection_dim=24)
    processor = transformers.CLIPProcessor(_image_processor("OwlViT"), tokenizer)
    return Member(getattr(transformers, f"{name}Model")(config), processor)


def _siglip() -> Member:
    tokenizer = _gemma_tokenizer()
    text = _SIZES | {"vocab_size": len(tokenizer), "max_position_embeddings": 24, "projection_size": 48}
    model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=_VISION))
    return Member(model, transformers.SiglipProcessor(_image_processor("Siglip"), tokenizer))


def _siglip2() -> Member:
    tokenizer = _gemma_tokenizer()
    text = _SIZES | {"vocab_size": len(tokenizer), "max_position_embeddings": 24, "projection_size": 48}
    vision = _SIZES | {"hidden_size": 48, "patch_size": PATCH, "num_patches": 16}
    model = transformers.Siglip2Model(transformers.Siglip2Config(text_config=text, vision_config=vision))
    image_processor = transformers.Siglip2ImageProcessorPil(patch_size=PATCH, max_num_patches=16)
    return Member(model, transformers.Siglip2Processor(image_processor, tokenizer))


def _metaclip_2() -> Member:
    text = _xlm_text(max_position_embeddings=20, bos_token_id=0, eos_token_id=2, pad_token_id=1)
    config = transformers.MetaClip2Config(text_config=text, vision_config=_VISION, projection_dim=24)
    processor = transformers.CLIPProcessor(_crop(), _xlm_roberta_tokenizer())
    return Member(transformers.MetaClip2Model(config), processor)


def _altclip() -> Member:
    text = _xlm_text(max_position_embeddings=24, project_dim=40, pad_token_id=1)
    config = transformers.AltCLIPConfig(text_config=text, vision_config=_VISION, projection_dim=24)
    processor = transformers.AltCLIPProcessor(_crop(), _xlm_roberta_tokenizer())
    return Member(transformers.AltCLIPModel(config), processor, text_blocks="text_model.roberta.encoder.layers")


def _chinese_clip() -> Member:
    config = transformers.ChineseCLIPConfig(text_config=_bert_text(), vision_config=_VISION, projection_dim=24)
    processor = transformers.ChineseCLIPProcessor(_crop("ChineseCLIP"), _bert_tokenizer())
    return Member(transformers.ChineseCLIPModel(config), processor, text_blocks="text_model.encoder.layer")


def _blip(name: str) -> Member:
    text = _bert_text(encoder_hidden_size=48, bos_token_id=2, sep_token_id=3, eos_token_id=3)
    config = transformers.BlipConfig(
        text_config=text, vision_config=_VISION, image_text_hidden_size=24, projection_dim=24
    )
    processor = transformers.BlipProcessor(_image_processor("Blip"), _bert_tokenizer())
    model = getattr(transformers, name)(config)
    if name == "BlipModel":
        return Member(model, processor, text_blocks="text_model.encoder.layer")
    return Member(
        model,
        processor,
        text_blocks="text_encoder.encoder.layer",
        own_image=lambda model, inputs: model.vision_proj(model.vision_model(**inputs).last_hidden_state[:, 0]),
        own_text=lambda model, inputs: model.text_proj(model.text_encoder(**inputs).last_hidden_state[:, 0]),
    )


def _aimv2() -> Member:
    vision = _VISION | {"use_head": True}
    config = transformers.Aimv2Config(text_config=_clip_text(), vision_config=vision, projection_dim=24)

    def own_text(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        tokens = inputs["input_ids"].shape[1]  # transformers leaves the causal mask out where nothing is padded
        mask = torch.ones(1, 1, tokens, tokens, dtype=torch.bool).tril()
        embedding: torch.Tensor = model.get_text_features(inputs["input_ids"], attention_mask=mask).pooler_output
        return embedding

    processor = transformers.CLIPProcessor(_crop(), build_tokenizer())
    return Member(transformers.Aimv2Model(config), processor, own_text=own_text)


def _tipsv2() -> Member:
    vision = {key: value for key, value in _SIZES.items() if key != "intermediate_size"}
    vision |= {"image_size": SIDE, "patch_size": PATCH, "num_register_tokens": 2}
    config = transformers.Tipsv2Config(text_config=_bert_text(), vision_config=vision)
    # its SentencePiece tokenizer needs a trained file; any other tokenizer with a mask will do
    processor = transformers.CLIPProcessor(_crop(), _bert_tokenizer())
    return Member(transformers.Tipsv2Model(config), processor, image_blocks="vision_model.encoder.layer")


def _flava() -> Member:
    image = _SIZES | {"image_size": SIDE, "patch_size": PATCH}
    config = transformers.FlavaConfig(
        text_config=_bert_text(), image_config=image, multimodal_config=_SIZES, projection_dim=24, hidden_size=32
    )
    processor = transformers.FlavaProcessor(_image_processor("Flava", crop_size=_SQUARE), _bert_tokenizer())
    return Member(
        transformers.FlavaModel(config),
        processor,
        "image_model.encoder.layer",
        "text_model.encoder.layer",
        own_image=lambda model, inputs: model.get_image_features(**inputs).pooler_output[:, 0],
        own_text=lambda model, inputs: model.get_text_features(**inputs).pooler_output[:, 0],
    )


def _dual(vision: Any, text: Any) -> Member:
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=24)
    roberta = text.model_type == "roberta"
    processor = transformers.VisionTextDualEncoderProcessor(
        _image_processor("ViT"), _xlm_roberta_tokenizer() if roberta else _bert_tokenizer()
    )
    blocks = {"clip_vision_model": "vision_model.encoder.layers", "dinov2": "vision_model.encoder.layer"}
    image_blocks = blocks.get(vision.model_type, "vision_model.layers")
    return Member(transformers.VisionTextDualEncoderModel(config), processor, image_blocks, "text_model.encoder.layer")


def _bert_config() -> Any:
    return transformers.BertConfig(**_bert_text())


MEMBERS: dict[str, Callable[[], Member]] = {
    "CLIPModel": lambda: _like_clip("CLIP"),
    "CLIPModel-248-positions": lambda: _like_clip("CLIP", max_position_embeddings=248),
    "CLIPSegModel": lambda: _like_clip("CLIPSeg", transformers.CLIPSegProcessor, _image_processor("ViT")),
    "CLIPSegModel-larger-pictures": lambda: _like_clip(
        "CLIPSeg", transformers.CLIPSegProcessor, _image_processor("ViT", size={"height": 48, "width": 48})
    ),
    "MetaClip2Model": _metaclip_2,
    "OwlViTModel": lambda: _owl("OwlViT"),
    "Owlv2Model": lambda: _owl("Owlv2"),
    "SiglipModel": _siglip,
    "Siglip2Model": _siglip2,
    "AltCLIPModel": _altclip,
    "ChineseCLIPModel": _chinese_clip,
    "BlipForImageTextRetrieval": lambda: _blip("BlipForImageTextRetrieval"),
    "BlipModel": lambda: _blip("BlipModel"),
    "Aimv2Model": _aimv2,
    "Tipsv2Model": _tipsv2,
    "FlavaModel": _flava,
    "VisionTextDualEncoderModel": lambda: _dual(transformers.ViTConfig(**_VISION), _bert_config()),
    "VisionTextDualEncoderModel-clip-roberta": lambda: _dual(
        transformers.CLIPVisionConfig(**_VISION),
        transformers.RobertaConfig(**_xlm_text(max_position_embeddings=24, pad_token_id=1)),
    ),
    "VisionTextDualEncoderModel-deit": lambda: _dual(transformers.DeiTConfig(**_VISION), _bert_config()),
    "VisionTextDualEncoderModel-dinov2": lambda: _dual(
        transformers.Dinov2Config(**(_VISION | {"mlp_ratio": 2})), _bert_config()
    ),
}
"""Makers of the tiny models, by class and variant."""
