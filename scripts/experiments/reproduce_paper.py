"""The paper's settings (Wang, Rudner and Wilson, NeurIPS 2023), ready for whoever has the data and the models.

    python scripts/experiments/reproduce_paper.py conceptual-captions Validation_GCC.tsv --out runs/cc
    python scripts/experiments/reproduce_paper.py ms-cxr MS_CXR.csv --images FOLDER --model FOLDER --out runs/cxr

Conceptual Captions: openai/clip-vit-base-patch32, beta 0.1, layer 9 of both towers. MS-CXR: a CLIP fine-tuned on chest
X-rays (a Hugging Face folder), beta 1, image layer 9, text layer 7; the boxes judge where maps lie. 500 pairs each.
Words after `--` are keys of fit.py. What the published evaluation code computes is the group `reference` of the table.
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
    """Write the sampled table and evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=SETTINGS)
    parser.add_argument("table", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="the run directory")
    parser.add_argument("--images", type=Path, help="ms-cxr: the folder that its paths start from")
    parser.add_argument("--model", default=CLIP, help="a hub id or a Hugging Face folder")
    parser.add_argument("--pairs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    words = sys.argv[1:] if words is None else words
    end = words.index("--") if "--" in words else len(words)
    given, keys = parser.parse_args(words[:end]), words[end + 1 :]
    try:
        rows = list(conceptual_captions(given.table) if given.data == "conceptual-captions" else ms_cxr(given.table))
    except (M2IBError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    chosen = sample(rows, given.pairs, given.seed)
    table = given.out.with_name(given.out.name + ".jsonl")
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text("".join(json.dumps(row) + "\n" for row in chosen), encoding="utf-8")
    root = [f"data.image_root={given.images}"] if given.images is not None else []
    source = ["data.name=captions", f"data.path={table}", f"output_dir={given.out}", f"model.name={given.model}", *root]
    evaluation = [
        "task=evaluate",
        f"evaluate.methods={METHODS}",
        "evaluate.metrics=[localisation, confidence, reference]",
    ]
    return fit(["--config", "paper", *SETTINGS[given.data], *source, *evaluation, *keys])


def conceptual_captions(table: Path) -> Iterator[dict[str, Any]]:
    """Its TSV has no header: a caption and a URL in each line."""
    with table.open(encoding="utf-8", newline="") as file:
        for number, cells in enumerate(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE), 1):
            if len(cells) != 2:
                raise M2IBError(f"{table}:{number}: expected a caption and a URL, got {len(cells)} cells")
            yield {"image": cells[1], "caption": cells[0]}


def ms_cxr(table: Path) -> Iterator[dict[str, Any]]:
    """Its CSV has a row for each box: pairs are rows with the same image and phrase."""
    pairs: dict[tuple[str, str], dict[str, Any]] = {}
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in _MS_CXR_COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise M2IBError(f"{table} has no column {missing[0]!r}: it has {', '.join(reader.fieldnames or ())}")
        for row in reader:
            new = {"image": row["path"], "caption": row["label_text"], "boxes": []}
            pair = pairs.setdefault((row["dicom_id"], row["label_text"]), new)
            pair["boxes"].append([float(row[side]) for side in "xywh"])
    yield from pairs.values()


def sample(rows: Iterable[dict[str, Any]], pairs: int, seed: int) -> list[dict[str, Any]]:
    """So many at random, in their own order; all if there are fewer."""
    rows = list(rows)
    chosen = sorted(random.Random(seed).sample(range(len(rows)), min(pairs, len(rows))))
    return [rows[index] for index in chosen]


if __name__ == "__main__":
    sys.exit(main())
