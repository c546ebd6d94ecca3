"""Prints how well the bundled model's maps localise; with ``--write``, chooses the preset and writes the model card.

    python scripts/score_scenes_model.py                             # the card's figures, with the folder's preset
    python scripts/score_scenes_model.py --model RUN/model --write   # choose on some scenes, report on others, write

RUN is a run of ``python fit.py --config scenes-model``. Scenes have three objects, one of them mentioned, so
chance for ``pick`` is 0.33.
"""

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from m2ib_lightning.api.explain import explain
from m2ib_lightning.config import Config, Modality
from m2ib_lightning.datamodules.scene_scoring import means, score_scenes
from m2ib_lightning.datamodules.scenes import ScenesDataModule, SceneSource
from m2ib_lightning.encoder.frozen import frozen
from m2ib_lightning.files import atomic_write_text
from m2ib_lightning.m2ib.explainer import resolve
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.m2ib.statistics import Statistics, calibrate
from m2ib_lightning.models.architecture import Architecture
from m2ib_lightning.models.card import write_card, write_preset
from m2ib_lightning.models.load import BUNDLED, PRESET_FILE, STATISTICS_FILE, LoadedModel, load_model
from m2ib_lightning.scenes.retrieval import retrieval

CHOOSE, REPORT, CALIBRATE = 1, 2, 3
"""Seeds of three sets of scenes."""

LAYERS: dict[Modality, int] = {"image": -1, "text": -1}

READING: dict[str, Any] = {"path": 2, "noise_samples": 5, "centred_noise": True}
"""How the picture's map is read. It costs what one beta with 10 draws does; docs/evaluation.md says why."""

# Mostly token gates for images: with a gate per channel, a patch far from the layer's mean costs nats whatever the
# caption says. That background survives other captions and random weights (docs/evaluation.md).
CANDIDATES: dict[Modality, list[dict[str, Any]]] = {
    "image": [
        {"granularity": granularity, "prior": prior, "beta": beta}
        for granularity, prior, betas in (
            ("token", "unit", (0.1, 0.2, 0.3, 0.5, 1.0)),
            ("token", "data", (0.1, 0.2, 0.3, 0.5, 1.0)),
            ("element", "data", (0.3, 1.0)),
        )
        for beta in betas
    ],
    "text": [
        {"granularity": "element", "prior": prior, "beta": beta}
        for prior in ("data", "unit")
        for beta in (0.03, 0.1, 0.3, 1.0)
    ],
}


def main() -> None:
    """Print the scores; with ``--write``, choose the preset first and write the folder's files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes")
    parser.add_argument("--scenes", type=int, default=500, help="number of scenes of the report")
    parser.add_argument("--choose-scenes", type=int, default=200, help="number of scenes of the choice")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()

    model = load_model(arguments.model)
    if arguments.write:
        folder = BUNDLED.get(arguments.model, Path(arguments.model))
        training = how_it_was_trained(folder)
        model = replace(model, statistics=measure_statistics(model))
        preset, trials = choose(model, arguments.choose_scenes)
        model = replace(model, preset=preset)
        training["retrieval"] = {
            name: retrieval(model.encoder.model, model.processor, phrases=phrases)
            for phrases, name in ((1, "one"), (2, "two"))
        }
        atomic_write_text(folder / "training.json", json.dumps(training, indent=2) + "\n")
    each, rate = score(model, model.preset, REPORT, arguments.scenes)
    scores = means(each)
    print(f"{arguments.scenes} scenes, {rate:.1f} pairs/s: {show(scores)}")
    if arguments.write:
        model.statistics.save(folder / STATISTICS_FILE)
        write_preset(folder / PRESET_FILE, preset)
        parameters = sum(parameter.numel() for parameter in model.encoder.model.parameters())
        write_card(
            folder / "README.md",
            training | {"parameters": parameters},
            preset,
            scores,
            arguments.scenes,
            trials,
            arguments.choose_scenes,
        )


def how_it_was_trained(folder: Path) -> dict[str, Any]:
    """Return the facts of the training from the folder's run; without a run, from the folder's ``training.json``."""
    run = folder.parent
    if not (run / "config.yaml").exists():
        facts: dict[str, Any] = json.loads((folder / "training.json").read_text())
        return facts
    summary = json.loads((run / "summary.json").read_text())
    config: Any = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    defaults = asdict(Config())
    configuration = {"model.name": config["model"]["name"], "bottleneck.enabled": config["bottleneck"]["enabled"]}
    for group in ("data", "finetune", "trainer"):
        for name, value in config[group].items():
            if value != defaults[group].get(name):
                configuration[f"{group}.{name}"] = value
    return {
        "configuration": configuration,
        "architecture": asdict(Architecture()),
        "steps": summary["steps"],
        "minutes": round(summary["seconds"] / 60, 1),
    }


def measure_statistics(model: LoadedModel) -> Statistics:
    """Return the priors of both towers at ``LAYERS``, from 1,000 scenes."""
    pairs = BottleneckSettings().calibration_pairs
    datamodule = ScenesDataModule(model.preparer, seed=CALIBRATE, limit=pairs, batch_size=50)
    with frozen(model.encoder.model):
        return calibrate(model.encoder, datamodule.calibration_batches(pairs), LAYERS, Statistics(), pairs)


def choose(model: LoadedModel, scenes: int) -> tuple[BottleneckSettings, list[dict[str, Any]]]:
    """Return the best settings of each tower, and all trials.

    The towers are independent, so one trial tests a candidate of each. The trials read the picture at one beta.
    """
    trials: list[dict[str, Any]] = []
    for index in range(max(map(len, CANDIDATES.values()))):
        settings: dict[str, Any] = {
            m: options[index % len(options)] | {"layer": LAYERS[m]} for m, options in CANDIDATES.items()
        }
        each, _ = score(model, BottleneckSettings().override(settings), CHOOSE, scenes)
        scores, quality = means(each), np.array([image_quality(scene) for scene in each])
        trials.append({"settings": settings, "scores": scores, "quality": quality})
        print(f"image {settings['image']}\n  text {settings['text']}\n  {show(scores)}", flush=True)
    image = fullest_of_the_best(trials)["settings"]["image"]
    text = max(trials, key=lambda trial: trial["scores"]["text_auroc"])["settings"]["text"]
    return BottleneckSettings().override({"image": image, "text": text, **READING}), trials


def fullest_of_the_best(trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the trial whose maps cover their objects best (IoU), among those close to the best quality.

    A trial is close if its mean difference from the best, paired by scene, is at most one standard error. A sparser map
    that is no better is therefore not chosen.
    """
    best = max(trials, key=lambda trial: float(trial["quality"].mean()))

    def is_close(trial: dict[str, Any]) -> bool:
        loss = best["quality"] - trial["quality"]
        return float(loss.mean()) <= float(loss.std(ddof=1)) / len(loss) ** 0.5

    return max(filter(is_close, trials), key=lambda trial: float(trial["scores"]["iou"]))


def image_quality(scores: dict[str, float]) -> float:
    """Return the sum of the scores for pointing, picking, and covering the object and nothing else."""
    return sum(scores[name] for name in ("point_exact", "pick", "mass", "iou", "average_precision"))


def score(
    model: LoadedModel, settings: BottleneckSettings, seed: int, scenes: int
) -> tuple[list[dict[str, float]], float]:
    """Explain the scenes of that seed; return the scores of each, and the pairs per second."""
    source = SceneSource(seed, scenes)
    examples = [source.example(index) for index in range(scenes)]
    settings = resolve(settings, model.encoder)
    start = time.perf_counter()
    results = explain(
        [example.scene.image for example in examples],
        [example.caption.text for example in examples],
        model=replace(model, preset=settings),
        batch_size=16,
    )
    return score_scenes(results, examples), scenes / (time.perf_counter() - start)


def show(scores: dict[str, float]) -> str:
    """Return the scores in one line."""
    return "  ".join(f"{name} {value:.3f}" for name, value in scores.items())


if __name__ == "__main__":
    main()
