"""Fine-tunes the bundled model at several betas: information against recall, and how well the maps point.

    python scripts/experiments/finetune_sweep.py --write          # 20 minutes on 2 cores

``--write`` puts the table into docs/finetuning.md and draws docs/finetuning/sweep.png (with matplotlib).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from m2ib_lightning.cli import main as fit
from m2ib_lightning.datamodules.scenes import ScenesDataModule
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.evaluation.bootstrap import Estimate
from m2ib_lightning.evaluation.comparison import compare
from m2ib_lightning.evaluation.evaluator import Evaluator
from m2ib_lightning.m2ib.explainer import resolve
from m2ib_lightning.methods import Context
from m2ib_lightning.models import load_model

sys.path.append(str(Path(__file__).parents[1]))
from sections import markdown_table, mean_and_interval, write_section

DOCUMENT = Path(__file__).parents[2] / "docs" / "finetuning.md"
BETAS = (0.0, 0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
PLAIN = "no bottleneck"
BEFORE = "before"


def main() -> None:
    """Train at each beta, measure, print the table, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1600)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--betas", type=float, nargs="*", default=BETAS)
    parser.add_argument("--scenes", type=int, default=200, help="number of scenes whose maps are scored")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {}
    scores = {BEFORE: map_scores("scenes", arguments.scenes)}
    with tempfile.TemporaryDirectory() as folder:
        for name in (PLAIN, *(f"beta {beta:g}" for beta in arguments.betas)):
            run = Path(folder) / name.replace(" ", "-")
            rows[name] = train(run, name, arguments.pairs, arguments.epochs)
            scores[name] = map_scores(str(run / "model"), arguments.scenes)
            print(name, rows[name], flush=True)
    text = table(rows, pointing(scores))
    print(text)
    if arguments.write:
        write_section(DOCUMENT, "sweep", text)
        plot({float(name.split()[1]): row for name, row in rows.items() if name != PLAIN}, rows[PLAIN])


def train(run: Path, name: str, pairs: int, epochs: int) -> dict[str, float]:
    """Fine-tune; return the last validation's values."""
    beta = [] if name == PLAIN else [f"bottleneck.{m}.beta={name.split()[1]}" for m in ("image", "text")]
    words = [
        *(
            "task=finetune",
            "seed=6",
            f"data.limit={pairs}",
            "data.batch_size=64",
            "data.mentioned=2",
            "finetune.lr=1e-4",
        ),
        *(
            "finetune.warmup=10",
            "finetune.bottleneck_lr=0.5",
            "finetune.sampled=true",
            "finetune.max_logit_scale=50",
            "finetune.maps=0",
            "finetune.validation=0.125",
        ),
        *("bottleneck.image.prior=data", "bottleneck.text.prior=data", f"bottleneck.enabled={name != PLAIN}"),
        *(
            f"trainer.max_epochs={epochs}",
            "trainer.devices=1",
            "trainer.enable_progress_bar=false",
            f"output_dir={run}",
        ),
    ]
    if fit([*words, *beta]) != 0:
        raise M2IBError(f"the run at {name} failed")
    summary = json.loads((run / "summary.json").read_text())
    return {key.removeprefix("val/"): value for key, value in summary.items() if key.startswith("val/")}


def map_scores(model_name: str, scenes: int) -> Any:
    """Return the scores of M2IB's maps on fresh scenes, with the model's preset, as a data frame."""
    import pandas as pd

    model = load_model(model_name)
    context = Context(model, resolve(model.preset, model.encoder), model.statistics)
    data = ScenesDataModule(model.preparer, seed=2, limit=scenes, batch_size=20, truth=True)
    data.setup("fit")
    evaluator = Evaluator(context, ["m2ib"], ["localisation"], model.preparer, probed=0, seeds=1)
    rows = []
    with evaluator.at_work(torch.device("cpu"), torch.float32):
        for batch in data.train_dataloader():
            rows += [(r.pair.key, s.seed, s.measure, s.value) for r in evaluator(batch) for s in r.scores]
    return pd.DataFrame(rows, columns=["key", "seed", "measure", "value"])


def pointing(scores: dict[str, Any]) -> dict[str, tuple[Estimate, Estimate | None]]:
    """Return the pointing game of each model, and its paired difference from the model before fine-tuning."""
    import pandas as pd

    frames = pd.concat([frame.assign(method=name) for name, frame in scores.items()])
    comparison = compare(frames, list(scores), BEFORE)
    estimates, differences = comparison.estimates["image_pointing"], comparison.differences["image_pointing"]
    return {name: (estimates[name], differences.get(name)) for name in scores}


def table(rows: dict[str, dict[str, Any]], points: dict[str, tuple[Estimate, Estimate | None]]) -> str:
    """Return the table: validation through the noisy bottleneck, and the pointing game of M2IB's maps."""
    keys = ("image_information", "text_information", "image_to_text@1", "text_to_image@1")
    head = ["model", *(key.replace("_", " ") for key in keys), "pointing game", "minus before"]
    lines = []
    for name, (estimate, difference) in points.items():
        cells = [f"{rows[name][key]:.3f}" if name in rows and key in rows[name] else "-" for key in keys]
        lines.append([name, *cells, mean_and_interval(estimate)])
        lines[-1].append(mean_and_interval(difference) if difference is not None else "-")
    return markdown_table(head, lines)


def plot(rows: dict[float, dict[str, Any]], plain: dict[str, Any]) -> None:
    """Draw recall against information, one point per beta."""
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for way, colour in (("image_to_text", "C0"), ("text_to_image", "C1")):
        information = [row["image_information"] for row in rows.values()]
        axis.plot(information, [row[f"{way}@1"] for row in rows.values()], "o-", color=colour, label=way)
        axis.axhline(plain[f"{way}@1"], color=colour, linestyle=":", linewidth=1)
    for beta, row in rows.items():
        place = row["image_information"], row["image_to_text@1"]
        axis.annotate(f"{beta:g}", place, (4, -4), textcoords="offset points", fontsize=8, va="top")
    axis.set(
        xlabel="image information, nats per token and channel",
        ylabel="recall at 1 (dotted: no bottleneck)",
        title="numbers: beta",
    )
    axis.legend(loc="lower right")
    path = DOCUMENT.parent / "finetuning" / "sweep.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
