"""Writes the measured parts of docs/hard-scenes.md: what the model knows, and how well maps localise, by kind of scene.

    python fit.py --config evaluate-hard output_dir=runs/hard
    python scripts/write_hard_scenes.py runs/hard

What the model knows is measured here: whether a true caption has a higher cosine than a false one. Needs SciPy.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf
from PIL import Image, ImageDraw
from scipy.ndimage import binary_dilation
from sections import markdown_table, mean_and_interval, write_section

from m2ib_lightning.api.explain import explain
from m2ib_lightning.datamodules.hard_scenes import HardSceneSource
from m2ib_lightning.evaluation.bootstrap import Estimate, Resamples, estimate_means
from m2ib_lightning.evaluation.comparison import Comparison, compare
from m2ib_lightning.evaluation.measures import MEASURES
from m2ib_lightning.evaluation.scores import load_scores
from m2ib_lightning.models import LoadedModel, load_model
from m2ib_lightning.scenes.hard import KINDS, HardScene

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from machine import describe

DOCUMENT = Path(__file__).parents[1] / "docs" / "hard-scenes.md"
MEASURED = ("image_pointing", "image_rank", "image_iou", "image_ap", "text_auroc")
RESAMPLES = 1000


def main() -> None:
    """Write all sections and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--scenes", type=int, default=500, help="scenes of each kind for what the model knows")
    parser.add_argument("--twins", type=int, default=100, help="scenes of each kind for the choice between twins")
    parser.add_argument("--only", nargs="+", help="sections to write; all by default")
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    arguments = parser.parse_args()
    config: Any = OmegaConf.load(arguments.run / "config.yaml")
    model, seed, methods = load_model(config.model.name), config.seed, list(config.evaluate.methods)
    sections: dict[str, Callable[[], str]] = {
        "facts": lambda: facts(arguments.run, arguments.scenes, arguments.twins),
        "knowledge": lambda: knowledge_table(model, painted(seed, arguments.scenes)),
        "localisation": lambda: localisation_tables(arguments.run, methods),
        "twins": lambda: twins_table(model, painted(seed, arguments.twins), methods, seed),
    }
    for name, text in sections.items():
        if name in (arguments.only or sections):
            write_section(arguments.document, name, text())
    draw_kinds(painted(seed, 3), arguments.document.with_suffix(".png"))


def painted(seed: int, count: int) -> dict[str, list[HardScene]]:
    """Return the first scenes of each kind."""
    sources = {kind: HardSceneSource(seed, count, kind) for kind in KINDS}
    return {kind: [source.scene(position) for position in range(count)] for kind, source in sources.items()}


def facts(run: Path, scenes: int, twins: int) -> str:
    """Return what was measured on, and the machine."""
    counts = load_scores(run).drop_duplicates("key")["image"].str.split("/").str[3].value_counts()
    machine = describe(torch.device("cpu"))
    each = str(counts.min()) if counts.min() == counts.max() else f"{counts.min()} or {counts.max()}"
    return (
        f"Localisation: {counts.sum()} pairs, {each} of each kind. What the model knows: {scenes} scenes of each kind. "
        f"Twins: {twins} of each kind. {machine['name']}, torch {machine['torch']}."
    )


def knowledge_table(model: LoadedModel, scenes: dict[str, list[HardScene]]) -> str:
    """Return how often the true caption has a higher cosine than each false one, by kind and change."""
    rows = []
    for kind, of_kind in scenes.items():
        plans = [scene.composition for scene in of_kind]
        true = [plan.caption.text for plan in plans]
        spelled = np.mean([len(model.processor.tokenizer.tokenize(text)) > len(text.split()) for text in true])
        similarity = cosines(model, of_kind, true)
        for change in plans[0].opposites:
            false = cosines(model, of_kind, [plan.opposites[change].text for plan in plans])
            wins = estimate((similarity > false)[:, None], ["model"])["model"]
            example = f"{plans[0].caption.text} / {plans[0].opposites[change].text}"
            rows.append(
                [kind, example, f"{spelled:.2f}", mean_and_interval(wins), f"{(similarity - false).mean():+.3f}"]
            )
    head = ["kind", "true / false, for example", "captions with words in pieces", "true one wins", "mean difference"]
    return markdown_table(head, rows)


@torch.no_grad()
def cosines(model: LoadedModel, scenes: Sequence[HardScene], captions: list[str]) -> NDArray[np.float64]:
    """Return the cosine of each scene with its caption."""
    images = model.processor(images=[scene.image for scene in scenes], return_tensors="pt")
    image = model.encoder.model.get_image_features(**images).pooler_output
    return np.asarray(torch.cosine_similarity(image, embeddings(model, captions)).double().numpy())


@torch.no_grad()
def embeddings(model: LoadedModel, captions: list[str]) -> torch.Tensor:
    """Return the embedding (N, E) of each caption."""
    tokens = model.processor(text=captions, padding=True, return_tensors="pt")
    embedded: torch.Tensor = model.encoder.model.get_text_features(**tokens).pooler_output
    return embedded


def estimate(values: NDArray[Any], names: list[str]) -> dict[str, Estimate]:
    """Return the means of the columns, with intervals."""
    rows = np.arange(len(values)).astype(object)
    return estimate_means(values.astype(np.float64), names, Resamples(rows, RESAMPLES, 0))


def localisation_tables(run: Path, methods: list[str]) -> str:
    """Return a table for each measure: kinds by methods."""
    scores = load_scores(run)
    kinds = scores["image"].str.split("/").str[3]
    compared = {kind: compare(scores[kinds == kind], methods, methods[0], resamples=RESAMPLES) for kind in KINDS}
    parts = []
    for measure in MEASURED:
        rows = [[kind, *_cells(comparison, measure)] for kind, comparison in compared.items()]
        title = f"**{measure.replace('_', ' ')}**: {MEASURES[measure].meaning}"
        parts.append(f"{title}\n\n{markdown_table(['kind', *methods], rows)}")
    return "\n\n".join(parts)


def _cells(comparison: Comparison, measure: str) -> list[str]:
    """The mean and interval of each method; bold if best, a star if it differs significantly from the baseline."""
    best = comparison.best(measure)
    cells = []
    for method, found in comparison.estimates[measure].items():
        difference = comparison.differences[measure].get(method)
        star = r"\*" if difference is not None and difference.excludes_zero else ""
        mark = "**" if method in best else ""
        cells.append(f"{mark}{found.mean:.2f}{mark}{star} [{found.low:.2f}, {found.high:.2f}]")
    return cells


def twins_table(model: LoadedModel, scenes: dict[str, list[HardScene]], methods: list[str], seed: int) -> str:
    """Return how often the map's mean is higher on the named object than on its twin, by kind and method."""
    rows = []
    for kind, of_kind in scenes.items():
        if of_kind[0].composition.twin is None:
            continue
        targets = embeddings(model, [scene.composition.caption.text for scene in of_kind])
        images = [scene.image for scene in of_kind]
        right = []
        for method in methods:
            results = explain(images, target=targets, model=model, method=method, seed=seed, batch_size=20)
            maps = [result.image_heatmap for result in results]
            right.append([chooses_its_object(*pair) for pair in zip(maps, of_kind, strict=True)])
        found = estimate(np.array(right).T, methods)
        rows.append([kind, *(mean_and_interval(found[method]) for method in methods)])
        print(rows[-1], flush=True)
    return markdown_table(["kind", *methods], rows)


def chooses_its_object(heatmap: NDArray[np.float32], scene: HardScene) -> float:
    """Return 1 if the map is higher on the named object than on its twin, 0 if lower, 0.5 if equal."""
    plan = scene.composition
    assert plan.twin is not None
    target, twin = (heatmap[scene.visible[index] > 0.5].mean() for index in (plan.targets[0], plan.twin))
    return float(target > twin) + 0.5 * float(target == twin)


def draw_kinds(scenes: dict[str, list[HardScene]], path: Path, *, zoom: int = 3) -> None:
    """Draw a column for each kind, with an outline around what the caption is about."""
    size, width = 64 * zoom, 64 * zoom + 8
    rows = max(map(len, scenes.values()))
    sheet = Image.new("RGB", (width * len(scenes), 16 + rows * (size + 32)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, (kind, of_kind) in enumerate(scenes.items()):
        draw.text((column * width + 2, 2), kind, fill="black")
        for row, scene in enumerate(of_kind):
            left, top = column * width, 16 + row * (size + 32)
            sheet.paste(Image.fromarray(outlined(scene, zoom)), (left, top))
            for line, text in enumerate(_lines(scene.composition.caption.text, 32)):
                draw.text((left + 2, top + size + 2 + 12 * line), text, fill="black")
    sheet.quantize(200).save(path, optimize=True)


def outlined(scene: HardScene, zoom: int) -> NDArray[np.uint8]:
    """Return the picture, enlarged, with a cyan outline around the truth."""
    image = scene.image.repeat(zoom, 0).repeat(zoom, 1)
    mask = scene.mask.repeat(zoom, 0).repeat(zoom, 1)
    image[binary_dilation(mask, iterations=2) & ~mask] = (0, 255, 255)
    return image


def _lines(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) + 1 > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


if __name__ == "__main__":
    main()
