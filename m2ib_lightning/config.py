"""The schema of the configuration, which ``--help`` prints.

A YAML file overrides its defaults, and the command line overrides both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Modality = Literal["image", "text"]
"""Name of a tower: what it reads."""

MODALITIES: tuple[Modality, ...] = ("image", "text")
"""Both towers, the image tower first."""

Task = Literal["attribute", "ground", "evaluate", "finetune", "tune"]
"""Task of a run."""

Preset = Literal["recommended", "published"]
"""Values that null keys of the bottleneck take: those of the model's folder, or those of the paper."""

Mask = Literal["channel", "readout"]
"""Mask that is trained: one alpha per channel, or a head that predicts one alpha per token."""


def _key(default: Any, text: str) -> Any:
    """Return a dataclass field with its line in ``--help``."""
    return field(default=default, metadata={"help": text})


RENAMED = {"finetune.others": "finetune.hard_negatives"}
"""Renamed keys, from old to new name. The error for an old name gives the new one."""


@dataclass
class ModelConfig:
    """The model to explain."""

    name: str = _key(
        "scenes",
        "a hub id, a local Hugging Face folder, 'openai:FILE' (a checkpoint in OpenAI CLIP's format, docs/openai.md), "
        "'open_clip:...' (docs/open-clip.md), or the bundled 'scenes' ('scenes-untrained': with random weights)",
    )
    compile: bool = _key(False, "whether torch.compile compiles the loop: a minute at the start, no gain on a CPU")


@dataclass
class TowerConfig:
    """The bottleneck of one tower. ``bottleneck.preset`` decides which value null stands for."""

    layer: int | None = _key(
        None, "block after which the tower is cut, from 0; -1: the first block's input; published 9 of 12"
    )
    beta: float | None = _key(None, "weight of the information, per nat; published 0.1")
    sigma: float | None = _key(None, "scale of the noise, in standard deviations of the prior; published 1.0")
    granularity: str | None = _key(
        None, "gates: 'element' (one per token and channel; published) or 'token' (one per token)"
    )
    prior: str | None = _key(
        None, "distribution of the noise: 'unit' (N(0, 1); published) or 'data' (statistics of the layer)"
    )


@dataclass
class BottleneckConfig:
    """The bottlenecks of both towers, and the optimisation that they share."""

    enabled: bool = _key(True, "finetune: whether the model gets a bottleneck")
    preset: Preset = _key(
        "recommended", "null keys take the values that the model's folder recommends, or the published ones"
    )
    image: TowerConfig = field(default_factory=TowerConfig)
    text: TowerConfig = field(default_factory=TowerConfig)
    steps: int | None = _key(None, "Adam steps; published 10")
    lr: float | None = _key(None, "Adam's learning rate; published 1.0")
    noise_samples: int | None = _key(None, "noise draws per step; published 10")
    centred_noise: bool | None = _key(None, "whether the mean of a step's draws is subtracted; published false")
    initial_alpha: float | None = _key(None, "initial value of alpha, where lambda = sigmoid(alpha); published 5.0")
    calibration_pairs: int | None = _key(None, "number of pairs that give the statistics of prior=data; default 1000")
    path: int | None = _key(None, "number of betas that the picture's map is read along; published 1: beta alone")
    opposite: bool | None = _key(None, "whether the map is what passes beyond the opposite target; published false")
    max_rows: int | None = _key(
        None,
        "largest number of tokens, over all draws, that run at once; bounds memory; null: a default for the device",
    )
    statistics: str | None = _key(None, "a statistics.safetensors file of an earlier run, for prior=data")


@dataclass
class DataConfig:
    """The pairs to explain."""

    name: str | None = _key(
        None,
        "data source: 'scenes' (synthetic), 'hard-scenes' (harder ones), 'captions' (any image-text table), "
        "'quadrants' (four scenes, or images of a folder, in one picture), 'scene-course' (for training), or the "
        "layout of a published data set: coco, flickr30k-entities, refcoco, visual-genome, ms-cxr, "
        "conceptual-captions, labelme, label-studio; null: 'captions' with data.path, else 'scenes'",
    )
    path: str | None = _key(
        None,
        "captions: a .csv, .tsv, .jsonl or .parquet file, an image folder, a hub data set, or shards (a glob); other "
        "sources: the file or folder of annotations (docs/data.md)",
    )
    split: str | None = _key(
        None,
        "captions: split of a hub data set (null: train); flickr30k-entities, refcoco, ms-cxr: split to read (null: "
        "all); hard-scenes: kind of scenes (null: all)",
    )
    instances: str | None = _key(
        None, "coco, refcoco: COCO file with the objects' masks; null: the one beside data.path, if there is one"
    )
    one_caption: bool = _key(
        False, "coco, flickr30k-entities, refcoco: whether only the first caption of a picture (of an object) is read"
    )
    image_column: str = _key("image", "captions: column with the images (paths, or pictures); label-studio: the field")
    text_column: str = _key("caption", "captions: column with the captions; labelme, label-studio: the field")
    id_column: str | None = _key(None, "captions: column with your own ids; null: none")
    mask_column: str | None = _key(None, "captions: column with masks of what the caption names (paths, or pictures)")
    box_column: str | None = _key(
        None, "captions: column with boxes instead of masks, [left, top, width, height] in pixels"
    )
    negatives_column: str | None = _key(
        None,
        "captions: column with captions that are false of the picture (a list, or one), for finetune.hard_negatives",
    )
    label_column: str | None = _key(None, "captions: column with the pictures' classes, for zero-shot accuracy")
    annotated_as: str | None = _key(
        None, "boxes and masks of pictures with an EXIF rotation: 'shown' (with it), 'stored' (without); null: by size"
    )
    encoding: str | None = _key(
        None, "captions: encoding of a text table, such as cp1252; null: UTF-8, or UTF-16 with a byte order mark"
    )
    image_root: str | None = _key(
        None, "folder where relative image paths start; null: the table's folder, or the usual place beside annotations"
    )
    fit: str | None = _key(
        None, "how pictures fit the input: 'crop' (as CLIP), 'pad', 'stretch' (as SigLIP); null: the model's default"
    )
    streaming: bool = _key(
        False, "captions: whether shards (.parquet, hub) are read as a stream, with flat memory; .tar always is"
    )
    allow_urls: bool = _key(False, "captions: whether images at http(s) URLs are downloaded")
    allow_private_urls: bool = _key(False, "whether images may also come from private and loopback addresses")
    url_timeout: float = _key(20.0, "seconds that one attempt at a download may take")
    url_max_bytes: int = _key(50_000_000, "largest image that is downloaded, in bytes")
    url_retries: int = _key(2, "further attempts at a download after the first, with growing pauses")
    url_connections: int = _key(16, "concurrent downloads in each decoding process")
    url_cache: str | None = _key(None, "folder that keeps downloaded images; null: none is kept")
    image_timeout: float = _key(60.0, "seconds after which an image that is still being read is an error")
    image_max_bytes: int = _key(350_000_000, "largest picture in memory, at 4 bytes a pixel; larger JPEGs are reduced")
    image_formats: list[str] | None = _key(
        None, "formats of Pillow to read besides JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF, JPEG 2000 and PPM, as in [ICO]"
    )
    window: str | None = _key(
        None,
        "grey values that become black to white, in DICOM and above 8 bits: 'center,width', 'auto' (0.5th to 99.5th "
        "percentile) or 'full' (darkest to brightest); null: the DICOM's own window, else auto above 8 bits",
    )
    open_timeout: float = _key(600.0, "seconds that opening the source may take")
    objects: int = _key(3, "scenes: number of objects in a scene (1 to 4)")
    mentioned: int = _key(1, "scenes, quadrants: number of objects that the caption names")
    limit: int | None = _key(None, "number of pairs, the first ones of the source; null: all (500 scenes)")
    batch_size: int | None = _key(None, "pairs per batch; no result depends on it; null: 8 on a CPU, 32 on a GPU")
    num_workers: int | None = _key(None, "decoding processes; null: 0 for scenes, else 1 on a CPU, up to 8 on a GPU")

    @property
    def source(self) -> str:
        """Name of the data source: ``name``, or what ``path`` implies if it is null."""
        return self.name or ("scenes" if self.path is None else "captions")


@dataclass
class OutputConfig:
    """The pictures that a run draws in addition to its table."""

    heatmaps: int = _key(1000, "number of pairs that are drawn; -1: all")
    format: Literal["png", "jpeg", "webp"] = _key("png", "format of the drawings: png (exact), jpeg or webp (smaller)")
    tensorboard_images: int = _key(16, "number of these pairs whose picture and curves also go to the loggers")


@dataclass
class MethodConfig:
    """The attribution method."""

    name: str = _key(
        "m2ib",
        "attribution method of task=attribute and ground, with options after a colon: m2ib, rise:samples=1000, ...",
    )


@dataclass
class GroundConfig:
    """The units of task=ground: the parts of a caption that get a map of their own."""

    units: str = _key(
        "phrases",
        "units of a caption: 'phrases' (content words between function words, English), 'words', or 'spacy:PIPELINE' "
        "for the noun chunks of an installed spaCy pipeline",
    )
    target: str = _key(
        "difference",
        "what the picture is compared with for a unit: 'difference', e(caption) - e(caption without it); 'alone', "
        "e(unit); or 'contrast', e(unit) - e(ground.against)",
    )
    against: str | None = _key(None, "text that ground.target=contrast compares each unit with, as in 'a healthy lung'")


@dataclass
class EvaluateConfig:
    """The methods that task=evaluate compares, and the metrics that it uses."""

    methods: list[str] | None = _key(
        None, "methods to compare, each in the form of method.name; null: all that need no trained weights"
    )
    metrics: list[str] | None = _key(
        None,
        "groups of metrics: localisation, confidence, curves, structure, probes, reference; null: all but reference",
    )
    baseline: str = _key("m2ib", "method that the others are compared with, pair by pair")
    probed: int = _key(25, "pairs on which each method is repeated: other seeds, noise, random weights, other captions")
    seeds: int = _key(3, "number of seeds for methods that draw at random, on the probed pairs")
    resamples: int = _key(1000, "bootstrap resamples of the pictures, for the 95 % intervals")
    pictures: int = _key(8, "number of pairs, the first ones, that are drawn with the maps of all methods")


@dataclass
class TuneConfig:
    """The search of task=tune for the model's preset. A given ``bottleneck.{image,text}`` key keeps its value."""

    selection_pairs: int = _key(64, "pairs on which settings are tried, drawn from the source (a stream's first ones)")
    confirmation_pairs: int = _key(100, "other pairs, on which the best settings are compared with the present ones")
    layers: int = _key(6, "number of layers per tower to try, evenly spread, besides the present and published ones")
    betas: list[float] | None = _key(None, "weights of the information to try; null: 0.03, 0.1, 0.3, 1.0")
    budget: int = _key(40, "largest number of settings to try per tower")


@dataclass
class FinetuneConfig:
    """The training of task=finetune. The keys of ``bottleneck`` set layer, beta, sigma and prior."""

    mask: Mask = _key(
        "channel", "'channel': one alpha per channel for all pairs; 'readout': a head predicts one alpha per token"
    )
    train: str = _key(
        "all",
        "weights trained with the bottleneck: all, heads, last:N blocks (and heads), lora, or bottleneck (no others)",
    )
    loss: str | None = _key(
        None, "loss: contrastive, sigmoid, or similarity (of M2IB, for a frozen model); null: the default for the model"
    )
    lr: float = _key(1e-5, "AdamW's learning rate for the model")
    bottleneck_lr: float = _key(1e-2, "AdamW's learning rate for the masks")
    weight_decay: float = _key(0.1, "weight decay of matrices (biases, norms and masks have none)")
    warmup: int = _key(100, "steps of linear warm-up; a cosine schedule down to 0 follows")
    beta_warmup: int = _key(0, "steps over which beta grows from 0")
    max_logit_scale: float = _key(100.0, "upper bound of the factor that scales the cosines")
    hidden: int = _key(128, "hidden width of the readout head")
    rank: int = _key(8, "rank of the matrices that train=lora adds to each linear layer of the blocks")
    prompt: str = _key("a photo of a {}", "prompt for zero-shot accuracy, with {} for the name of the class")
    shuffle: bool = _key(True, "whether each epoch has a new order; false: the order of the source, for a curriculum")
    hard_negatives: int = _key(
        0, "captions per pair, false of its picture, that join its batch; from the source (data.negatives_column)"
    )
    sampled: bool = _key(False, "whether validation draws noise too; false: t = m + sigma s lambda z'")
    validation: float = _key(0.1, "share of the pairs that is held out for validation")
    checkpoint_every: int = _key(1000, "steps between checkpoints, besides the one after each epoch; 0: none")
    maps: int = _key(
        32,
        "validation pairs with ground truth whose maps are scored (4 are drawn): maps of the readout, else of M2IB on "
        "the current model (not with adapters or fsdp); 0: none",
    )


@dataclass
class Config:
    """All keys of the configuration."""

    task: Task = _key("attribute", "task of the run")
    seed: int = _key(0, "seed of the noise, the shuffling and the scenes")
    output_dir: str | None = _key(None, "run directory; null: runs/<date>-<time>, with a link runs/latest")
    resume: bool = _key(
        False, "whether to continue the run in output_dir, on any number of devices; starts a new run if it holds none"
    )
    retry_failed: bool = _key(False, "whether resume=true also tries failed pairs again")
    model: ModelConfig = field(default_factory=ModelConfig)
    bottleneck: BottleneckConfig = field(default_factory=BottleneckConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    data: DataConfig = field(default_factory=DataConfig)
    ground: GroundConfig = field(default_factory=GroundConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    trainer: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "arguments of lightning.Trainer, such as trainer.precision=bf16-mixed, trainer.logger=csv"},
    )
