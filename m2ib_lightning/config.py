"""The configuration: a typed schema, then a YAML file, then the command line. ``--help`` is made from the schema."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf

Modality = Literal["image", "text"]
MODALITIES: tuple[Modality, ...] = ("image", "text")
"""The two towers, by what they read."""

Task = Literal["attribute", "evaluate", "finetune"]
Preset = Literal["recommended", "published"]
Mask = Literal["channel", "readout"]


def _key(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


RENAMED = {"finetune.others": "finetune.hard_negatives"}
"""Keys that have another name now: the old one is an error that names the new one."""


@dataclass
class ModelConfig:
    """Which model is explained."""

    name: str = _key(
        "scenes",
        "the bundled model 'scenes' ('scenes-untrained': random weights), a local Hugging Face folder, or a hub id",
    )
    compile: bool = _key(False, "compile the loop with torch.compile: a minute at the start, gains nothing on a CPU")


@dataclass
class TowerConfig:
    """The bottleneck of one tower; null takes what ``bottleneck.preset`` says."""

    layer: int | None = _key(None, "block whose output is cut, from 0; -1 = the first block's input; published 9 of 12")
    beta: float | None = _key(None, "weight of the information, per nat; published 0.1")
    sigma: float | None = _key(None, "scale of the noise, in the prior's deviations; published 1.0")
    granularity: str | None = _key(None, "'element' (a gate per token and channel; published) or 'token'")
    prior: str | None = _key(None, "'unit' (published) or 'data' (statistics of the layer)")


@dataclass
class BottleneckConfig:
    """Both towers and the optimisation they share."""

    enabled: bool = _key(True, "finetune: whether there is a bottleneck at all")
    preset: Preset = _key("recommended", "what null keys take: the model folder's 'recommended' values, or 'published'")
    image: TowerConfig = field(default_factory=TowerConfig)
    text: TowerConfig = field(default_factory=TowerConfig)
    steps: int | None = _key(None, "Adam steps; published 10")
    lr: float | None = _key(None, "Adam's learning rate; published 1.0")
    noise_samples: int | None = _key(None, "noise draws per step; published 10")
    initial_alpha: float | None = _key(None, "where alpha starts, lambda = sigmoid(alpha); published 5.0")
    calibration_pairs: int | None = _key(None, "pairs that prior=data takes its statistics from; 1000")
    max_rows: int | None = _key(
        None, "tokens of draws that go through the loop's blocks at a time: bounds memory; null: what suits the device"
    )
    statistics: str | None = _key(None, "a statistics.safetensors that an earlier run wrote, for prior=data")


@dataclass
class DataConfig:
    """Which pairs are explained."""

    name: str = _key(
        "scenes", "the data source: 'scenes' (synthetic), 'captions' (any image-text table) or 'scene-course'"
    )
    path: str | None = _key(
        None, "captions: a .csv, .tsv, .jsonl or .parquet file, an image folder, a hub data set, or shards (a glob)"
    )
    split: str = _key("train", "captions: the split of a hub data set")
    image_column: str = _key("image", "captions: the column of images (paths, or pictures)")
    text_column: str = _key("caption", "captions: the column of captions")
    id_column: str | None = _key(None, "captions: a column of ids of your own; null: none")
    mask_column: str | None = _key(None, "captions: a column of masks of what the caption names (paths, or pictures)")
    box_column: str | None = _key(
        None, "captions: a column of boxes, [left, top, width, height] in pixels, in place of masks"
    )
    negatives_column: str | None = _key(
        None,
        "captions: a column of captions that are false of the picture (a list, or one), for finetune.hard_negatives",
    )
    label_column: str | None = _key(None, "captions: a column of the pictures' classes, for zero-shot accuracy")
    image_root: str | None = _key(None, "captions: where relative image paths start; null: the table's folder")
    fit: str | None = _key(
        None, "how pictures fit the model's input: 'crop' (CLIP's), 'pad', 'stretch' (SigLIP's); null: the model's own"
    )
    streaming: bool = _key(False, "captions: read shards (.tar, .parquet, hub) forwards, with flat memory; tars always")
    allow_urls: bool = _key(False, "captions: download images that are http(s) URLs")
    allow_private_urls: bool = _key(False, "also from private, loopback and other addresses that are not public")
    url_timeout: float = _key(20.0, "seconds that one try of a download may take")
    url_max_bytes: int = _key(50_000_000, "the largest image that is downloaded, in bytes")
    url_retries: int = _key(2, "tries of a download after the first, with growing pauses")
    url_connections: int = _key(16, "downloads at once, in each process that decodes")
    url_cache: str | None = _key(None, "a folder that keeps downloaded images; null: none is kept")
    image_timeout: float = _key(60.0, "seconds after which an image that is still being read counts as broken")
    objects: int = _key(3, "scenes: how many objects a scene has (1 to 4)")
    mentioned: int = _key(1, "scenes: how many of them the caption names")
    limit: int | None = _key(None, "explain only the first so many pairs; null: all (of the scenes, 500)")
    batch_size: int | None = _key(None, "pairs at a time; null: 8 on a CPU, 32 on a GPU; no result depends on it")
    num_workers: int | None = _key(None, "processes that decode; null: 0 for scenes, else 1 on a CPU, up to 8 on a GPU")


@dataclass
class OutputConfig:
    """What the run directory gets beside the table."""

    heatmaps: int = _key(1000, "how many pairs are drawn as PNG; -1: all")
    tensorboard_images: int = _key(16, "how many of them also go to TensorBoard, with their curves")


@dataclass
class MethodConfig:
    """How pairs are explained."""

    name: str = _key(
        "m2ib", "the attribution method of task=attribute, with its options after a colon: m2ib, rise:samples=1000, ..."
    )


@dataclass
class EvaluateConfig:
    """What task=evaluate compares, and by what."""

    methods: list[str] | None = _key(None, "methods, each as method.name has it; null: all that there are")
    metrics: list[str] | None = _key(
        None,
        "groups of metrics: localisation, confidence, curves, structure, probes, reference; null: all but reference",
    )
    baseline: str = _key("m2ib", "the method that the others are compared with, pair by pair")
    probed: int = _key(25, "pairs for what repeats each method: other seeds, noise, random weights, other captions")
    seeds: int = _key(3, "how many seeds a method gets that draws at random, on the probed pairs")
    resamples: int = _key(1000, "bootstrap samples of the pictures, for the 95 % intervals")
    pictures: int = _key(8, "how many of the first pairs are drawn with the maps of all methods")


@dataclass
class FinetuneConfig:
    """How task=finetune trains; layer, beta, sigma and prior are those of the bottleneck."""

    mask: Mask = _key("channel", "'channel': an alpha per channel for all pairs; 'readout': a head reads one per token")
    train: str = _key(
        "all", "what is trained beside the bottleneck: all, heads, last:N (and heads), lora, or bottleneck"
    )
    loss: str | None = _key(
        None, "contrastive, sigmoid or similarity (M2IB's, of a frozen model); null: the model's own, or that"
    )
    lr: float = _key(1e-5, "AdamW's learning rate of the model")
    bottleneck_lr: float = _key(1e-2, "AdamW's learning rate of the masks")
    weight_decay: float = _key(0.1, "of matrices, not of biases, norms and masks")
    warmup: int = _key(100, "steps of linear warm-up, before a cosine down to 0")
    beta_warmup: int = _key(0, "steps in which beta grows from 0")
    max_logit_scale: float = _key(100.0, "the largest factor of the cosines")
    hidden: int = _key(128, "inner width of the readout's head")
    rank: int = _key(8, "of the matrices that train=lora adds to each linear layer of the blocks")
    prompt: str = _key("a photo of a {}", "what a class is called for zero-shot accuracy, with {} for its name")
    shuffle: bool = _key(True, "each epoch in an order of its own; false: in the source's, as a curriculum needs")
    hard_negatives: int = _key(
        0, "captions per pair, false of its picture, that join its batch; the source has them (data.negatives_column)"
    )
    sampled: bool = _key(False, "the noise is on at validation too; false: t = m + sigma s lambda z'")
    validation: float = _key(0.1, "share of the pairs that is kept for validation")
    checkpoint_every: int = _key(
        1000,
        "steps between the checkpoints that resume=true goes on from, beside those at the end of each epoch; 0: none",
    )
    maps: int = _key(
        32,
        "validation pairs whose maps are judged where their truth is known (4 are drawn): the readout's, else M2IB's "
        "of the model as it is (not with adapters or fsdp); 0: none",
    )


@dataclass
class Config:
    """Everything ``fit.py`` takes."""

    task: Task = _key("attribute", "what to do")
    seed: int = _key(0, "keys the noise, the shuffling and the scenes")
    output_dir: str | None = _key(None, "the run directory; null: runs/<date>-<time>, with runs/latest pointing at it")
    resume: bool = _key(
        False, "continue the run in output_dir, on any number of devices; begins it where there is none"
    )
    retry_failed: bool = _key(False, "with resume: try the pairs again that failed")
    model: ModelConfig = field(default_factory=ModelConfig)
    bottleneck: BottleneckConfig = field(default_factory=BottleneckConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    data: DataConfig = field(default_factory=DataConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    trainer: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "arguments of lightning.Trainer, such as trainer.precision=bf16-mixed"},
    )


@dataclass(frozen=True)
class Key:
    """One line of ``--help``."""

    name: str
    type: str
    default: str
    help: str


def keys(schema: type = Config, prefix: str = "") -> list[Key]:
    """Every key of the schema, in order; nested ones with dots."""
    found: list[Key] = []
    hints = get_type_hints(schema)
    for item in fields(schema):
        hint, name = hints[item.name], prefix + item.name
        if is_dataclass(hint) and isinstance(hint, type):
            found += keys(hint, f"{name}.")
        elif name == "trainer":
            found.append(Key("trainer.*", "Trainer's", "Trainer's", item.metadata["help"]))
        else:
            default = "null" if item.default is None else str(item.default)
            found.append(Key(name, _type_name(hint), default, item.metadata["help"]))
    return found


def _type_name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "|".join(get_args(hint))
    arguments = [argument for argument in get_args(hint) if argument is not type(None)]
    return " or ".join(argument.__name__ for argument in arguments) if arguments else str(hint.__name__)


def to_yaml(config: Config) -> str:
    """The configuration as YAML; ``parse(["--config", FILE])`` reads it back."""
    return OmegaConf.to_yaml(OmegaConf.create(_escaped(asdict(config))))


def _escaped(value: Any) -> Any:
    """Text with ``${`` is text, also when OmegaConf reads the file again."""
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    return value.replace("${", r"\${") if isinstance(value, str) else value


def resolved_yaml(config: Config, bottleneck: Mapping[str, Any], statistics_hash: str | None) -> str:
    """The configuration as ``config.yaml`` keeps it: every null of the bottleneck resolved.

    Args:
        config: as given.
        bottleneck: the resolved settings, as ``BottleneckSettings.to_dict`` gives them.
        statistics_hash: sha256 of the layer statistics, for the first line; None where no prior uses any.
    """
    towers = {name: TowerConfig(**bottleneck[name]) for name in ("image", "text")}
    resolved = replace(config.bottleneck, **{**bottleneck, **towers})
    head = "" if statistics_hash is None else f"# sha256 of the layer statistics: {statistics_hash}\n"
    return head + to_yaml(replace(config, bottleneck=resolved, resume=False, retry_failed=False))
