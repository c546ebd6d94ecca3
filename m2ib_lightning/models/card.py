"""Write the model card and the recommended preset into the bundled model's folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from m2ib_lightning.files import atomic_write_text
from m2ib_lightning.m2ib.settings import BottleneckSettings

_CARD = """\
---
license: mit
tags: [clip, synthetic]
---

# scenes: a small CLIP for trying M2IB

A `CLIPModel` of {parameters:,} parameters, trained from scratch on synthetic 64 x 64 scenes of coloured shapes. It
knows shapes, colours, sizes and a few dozen words around them, and nothing else. With it, attribution can be tried,
tested and measured against ground truth offline. Do not use it for your own pictures.

Two commands made it: `python fit.py --config scenes-model output_dir=RUN` and
`python scripts/score_scenes_model.py --model RUN/model --write`.

## Recipe

{recipe}

{steps} steps took {minutes} minutes on 2 CPU cores (one of them painting scenes). The architecture:

{architecture}

## Retrieval

Retrieval is within batches of 64 scenes. A hit is a caption that is true of the scene.

{retrieval}

## Localisation

The scenes have three objects, one of them mentioned. The preset was chosen on {choose_scenes} scenes, and these figures
are from {scenes} others (`point` allows 2 px, `point_exact` none; chance for `pick` is 0.33).

{scores}

The preset, which `m2ib.yaml` holds:

{preset}

It draws the noise {noise_samples} times per step, and reads the picture's map along {path} betas.

## What was tried for the preset

The figures are from the {choose_scenes} scenes on which the preset was chosen, with 10 draws and one beta. The towers
are optimised independently, so one run tries a setting of each. For pictures, a setting qualifies if its sum of
`point_exact`, `pick`, `mass`, `iou` and `average_precision` is within one standard error of the best; the one with the
highest `iou` is chosen. For captions, the highest `text_auroc` is chosen.

{trials}
"""


def write_card(
    path: Path,
    training: dict[str, Any],
    preset: BottleneckSettings,
    scores: dict[str, float],
    scenes: int,
    trials: list[dict[str, Any]],
    choose_scenes: int,
) -> None:
    """Write the model card; every number in it that was measured comes from the arguments.

    Args:
        path: path of the card, the folder's ``README.md``.
        training: configuration, architecture and retrieval scores of the training.
        preset: recommended settings.
        scores: mean scores of the preset.
        scenes: number of scenes that ``scores`` were measured on.
        trials: settings and scores of each trial, from which the preset was chosen.
        choose_scenes: number of scenes that the trials were measured on.
    """
    retrieval = training["retrieval"]
    text = _CARD.format(
        parameters=training["parameters"],
        steps=f"{training['steps']:,}",
        minutes=training["minutes"],
        recipe=_table(("key", "value"), list(training["configuration"].items())),
        architecture=_table(("size", "value"), list(training["architecture"].items())),
        retrieval=_table(("phrases", *retrieval["one"]), [(name, *row.values()) for name, row in retrieval.items()]),
        choose_scenes=choose_scenes,
        scenes=scenes,
        scores=_table(("score", "value"), [(name, f"{value:.3f}") for name, value in scores.items()]),
        preset=_table(
            ("tower", *asdict(preset.image)), [(m, *asdict(preset.tower(m)).values()) for m in ("image", "text")]
        ),
        noise_samples=preset.noise_samples,
        path=preset.path,
        trials=_table(
            ("image", "text", *scores),
            [
                (
                    *(_short(trial["settings"][m]) for m in ("image", "text")),
                    *(f"{trial['scores'][name]:.3f}" for name in scores),
                )
                for trial in trials
            ],
        ),
    )
    atomic_write_text(path, text)


def write_preset(
    path: Path, preset: BottleneckSettings, origin: str = "chosen by scripts/score_scenes_model.py, see README.md"
) -> None:
    """Write ``m2ib.yaml``, the preset that fills null keys of ``bottleneck`` for this model.

    Args:
        path: path of the file.
        preset: recommended settings.
        origin: how they were chosen, on one line.
    """
    header = f"# Recommended for this model: {origin}.\n"
    atomic_write_text(path, header + OmegaConf.to_yaml({"bottleneck": preset.to_dict()}))


def _short(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
