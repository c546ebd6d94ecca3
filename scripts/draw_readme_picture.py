"""Draws the README's picture: a scene and its caption, phrase by phrase, by the bundled model.

python scripts/draw_readme_picture.py
"""

import argparse
from pathlib import Path

from m2ib_lightning import ground
from m2ib_lightning.datamodules.scenes import SceneSource
from m2ib_lightning.results.grounding_drawing import draw_grounding


def main() -> None:
    """Ground the scene, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/grounding.png"))
    parser.add_argument("--scene", type=int, default=3)
    arguments = parser.parse_args()
    example = SceneSource(seed=77, count=100, objects=4, mentioned=4).example(arguments.scene)
    grounding = ground(example.scene.image, example.caption.text)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    draw_grounding(grounding.whole).save(arguments.out, optimize=True)
    print(arguments.out)


if __name__ == "__main__":
    main()
