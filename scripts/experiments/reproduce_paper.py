"""Evaluates with the paper's settings (Wang, Rudner and Wilson, NeurIPS 2023), on data and models that you have.

    python scripts/experiments/reproduce_paper.py conceptual-captions Validation_GCC.tsv --out runs/cc
    python scripts/experiments/reproduce_paper.py ms-cxr MS_CXR.csv --images FOLDER --model FOLDER --out runs/cxr

Conceptual Captions: openai/clip-vit-base-patch32, beta 0.1, layer 9 of both towers. MS-CXR: a CLIP fine-tuned on chest
X-rays (a Hugging Face folder), beta 1, image layer 9, text layer 7; its boxes are the truth of the localisation. Both
use 500 pairs. Words after `--` are keys of fit.py. The table's group `reference` is what the published evaluation code
computes.
"""

import argparse
import csv
import json
import random
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from m2ib_lightning.cli import main as fit
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.files import atomic_write_text

CLIP = "openai/clip-vit-base-patch32"
METHODS = '[m2ib, "nib:image_layer=8,text_layer=8", gradcam, saliency, kernelshap, rise, chefer, random]'
_MS_CXR_COLUMNS = ("path", "label_text", "x", "y", "w", "h", "dicom_id")

SETTINGS = {
    "conceptual-captions": [
        "bottleneck.image.layer=9",
        "bottleneck.text.layer=9",
        "bottleneck.image.beta=0.1",
        "bottleneck.text.beta=0.1",
        "data.allow_urls=true",
    ],
    "ms-cxr": [
        "bottleneck.image.layer=9",
        "bottleneck.text.layer=7",
        "bottleneck.image.beta=1.0",
        "bottleneck.text.beta=1.0",
        "data.box_column=boxes",
    ],
}


def main(words: list[str] | None = None) -> int:
    """Write a table of sampled pairs, evaluate it; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=SETTINGS)
    parser.add_argument("table", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="the run directory")
    parser.add_argument("--images", type=Path, help="ms-cxr: the folder that the paths are relative to")
    parser.add_argument("--model", default=CLIP, help="a hub id or a Hugging Face folder")
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    words = sys.argv[1:] if words is None else words
    end = words.index("--") if "--" in words else len(words)
    arguments, keys = parser.parse_args(words[:end]), words[end + 1 :]
    try:
        rows = list(READERS[arguments.data](arguments.table))
    except (M2IBError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    chosen = sample(rows, arguments.pairs, arguments.seed)
    out = arguments.out
    table = out.with_name(out.name + ".jsonl")
    table.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(table, "".join(json.dumps(row) + "\n" for row in chosen))
    source = ["data.name=captions", f"data.path={table}", f"output_dir={out}", f"model.name={arguments.model}"]
    if arguments.images is not None:
        source.append(f"data.image_root={arguments.images}")
    evaluation = [
        "task=evaluate",
        f"evaluate.methods={METHODS}",
        "evaluate.metrics=[localisation, confidence, reference]",
    ]
    return fit(["--config", "paper", *SETTINGS[arguments.data], *source, *evaluation, *keys])


def conceptual_captions(table: Path) -> Iterator[dict[str, Any]]:
    """Yield the pairs of a TSV without a header: each line has a caption and a URL."""
    with table.open(encoding="utf-8", newline="") as file:
        for number, cells in enumerate(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE), 1):
            if len(cells) != 2:
                raise M2IBError(f"{table}:{number}: expected a caption and a URL, got {len(cells)} cells")
            yield {"image": cells[1], "caption": cells[0]}


def ms_cxr(table: Path) -> Iterator[dict[str, Any]]:
    """Yield the pairs of a CSV with a row for each box: rows with the same image and phrase are one pair."""
    pairs: dict[tuple[str, str], dict[str, Any]] = {}
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in _MS_CXR_COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise M2IBError(f"{table} has no column {missing[0]!r}: it has {', '.join(reader.fieldnames or ())}")
        for row in reader:
            new: dict[str, Any] = {"image": row["path"], "caption": row["label_text"], "boxes": []}
            pair = pairs.setdefault((row["dicom_id"], row["label_text"]), new)
            pair["boxes"].append([float(row[side]) for side in "xywh"])
    yield from pairs.values()


READERS = {"conceptual-captions": conceptual_captions, "ms-cxr": ms_cxr}
"""The reader of each data set's table."""


def sample(rows: Iterable[dict[str, Any]], pairs: int, seed: int) -> list[dict[str, Any]]:
    """Return that many random rows in their original order, or all if there are fewer."""
    rows = list(rows)
    chosen = sorted(random.Random(seed).sample(range(len(rows)), min(pairs, len(rows))))
    return [rows[index] for index in chosen]


if __name__ == "__main__":
    sys.exit(main())
