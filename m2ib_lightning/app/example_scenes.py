"""The examples of the page: scenes that the bundled model knows, with captions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from m2ib_lightning.scenes import UNSAID, Difficulty, describe, paint_scene

COUNT = 6
"""Number of scenes."""


def save_examples(folder: Path) -> list[list[str]]:
    """Write the pictures of the scenes to a folder; return (path, caption, other caption) of each.

    Every second scene has another caption, of an object that its first one does not name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    examples = []
    for index in range(COUNT):
        rng = np.random.default_rng([0, index, 3])
        scene = paint_scene(rng, Difficulty(objects=(3, 3)))
        objects = [obj._replace(size=UNSAID) for obj in scene.objects]
        path = folder / f"scene-{index + 1}.png"
        Image.fromarray(scene.image).save(path)
        other = describe(rng, objects[2:]).text if index % 2 else ""
        examples.append([str(path), describe(rng, objects[:2]).text, other])
    return examples
