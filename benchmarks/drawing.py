"""Measures what it costs to draw and encode the picture of a result, in milliseconds of one processor core.

    python benchmarks/drawing.py                          # this checkout
    python benchmarks/drawing.py --before EARLIER_CHECKOUT  # an earlier one too, in the same run

The pictures are synthetic photographs: smooth colours with grain, which is what makes PNG slow.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from m2ib_lightning.pairs.pair import Pair
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.drawing import draw_attribution
from m2ib_lightning.results.tower_attribution import TowerAttribution

SIZES = ((64, 64), (640, 480), (3000, 2000), (4000, 500))
KEPT = 512
"""Longer side of the copy of a picture that a run keeps for its drawing, in pixels."""

WORDS = (
    "a the of on in with and small large brown black white red dog cat bird horse man woman child people street house "
    "lake mountains grass snow wet old young running standing sitting looking riding holding beside under behind "
    "through while two three several table bench bicycle umbrella window river boat kitchen plate camera mirror"
)


def photograph(width: int, height: int) -> Image.Image:
    """Return smooth colours with grain."""
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 255, (height // 64 + 2, width // 64 + 2, 3), np.uint8))
    smooth = np.asarray(colours.resize((width, height), Image.Resampling.BICUBIC), np.float32)
    grain = rng.normal(0, 6, (height, width, 1)).astype(np.float32)
    return Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))


def result_of(width: int, height: int, picture: Image.Image, seed: int) -> Attribution:
    """Return a result with a random caption of 12 words and a random map of 7 x 7 patches, as of ViT-B/32."""
    rng = np.random.default_rng(seed)
    words, offsets, end = [str(word) for word in rng.choice(WORDS.split(), 12)], list[tuple[int, int]](), 0
    for word in words:
        offsets.append((end, end + len(word)))
        end += len(word) + 1
    pair = Pair(
        key="t:0",
        id="0",
        image="",
        caption=" ".join(words),
        tokens=words,
        token_offsets=offsets,
        token_positions=list(range(1, len(words) + 1)),
        image_size=(width, height),
        crop=(0, 0, width, height),
        picture=picture,
    )
    image = TowerAttribution(rng.random((7, 7), np.float32))
    return Attribution(pair, float(rng.random()), image, TowerAttribution(rng.random(len(words), np.float32)))


def milliseconds(works: Sequence[Callable[[], object]]) -> float:
    """Return the mean processor time of calls in this thread, after the first, which is not counted."""
    works[0]()
    start = time.thread_time()
    for work in works[1:]:
        work()
    return 1e3 * (time.thread_time() - start) / (len(works) - 1)


def settings() -> dict[str, dict[str, Any]]:
    """Return the encoders by name: those of ``output.format``, or plain PNG in a checkout from before them."""
    try:
        from m2ib_lightning.results.figures.encoding import FORMATS
    except ImportError:
        return {"png": {"format": "PNG"}}
    return {name: dict(FORMATS[name].options) for name in FORMATS}


def measure(label: str, repeats: int) -> None:
    """Print a line for each size and format."""
    for size in SIZES:
        picture = photograph(*size)
        picture.thumbnail((KEPT, KEPT))
        results = [result_of(*size, picture, seed) for seed in range(repeats + 1)]
        drawn = [draw_attribution(result) for result in results[:5]]
        drawing = milliseconds([partial(draw_attribution, result) for result in results])
        for name, options in settings().items():
            buffers = [io.BytesIO() for _ in drawn]
            saves = [partial(image.save, file, **options) for image, file in zip(drawn, buffers, strict=True)]
            encoding, kilobytes = milliseconds(saves), len(buffers[0].getvalue()) / 1e3
            print(
                f"{label:8} {size[0]:>5} x {size[1]:<5} {name:5} {drawing:7.1f} {encoding:8.1f} "
                f"{drawing + encoding:8.1f} {kilobytes:8.0f}",
                flush=True,
            )


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="an earlier checkout, which is measured too")
    parser.add_argument("--label", default="after", help=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    if arguments.label == "after":
        print(f"{'':8} {'picture':13} {'':5} {'draw ms':>7} {'encode':>8} {'together':>8} {'kB':>8}", flush=True)
    if arguments.before is not None:
        command = [sys.executable, str(Path(__file__).resolve()), "--label", "before"]
        environment = os.environ | {"PYTHONPATH": str(arguments.before.resolve())}
        subprocess.run([*command, "--repeats", str(arguments.repeats)], env=environment, check=True)
    measure(arguments.label, arguments.repeats)


if __name__ == "__main__":
    main()
