"""Draws the README's picture: the bundled model on the first scenes of the demo, stacked.

python scripts/draw_readme_picture.py
"""

import argparse
from pathlib import Path

from PIL import Image

from m2ib_lightning import explain
from m2ib_lightning.datamodules.scenes import SceneSource
from m2ib_lightning.results.drawing import draw_attribution


def main() -> None:
    """Explain the scenes, stack their pictures, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/scenes.png"))
    parser.add_argument("--scenes", type=int, default=3)
    arguments = parser.parse_args()

    examples = [SceneSource(seed=0).example(index) for index in range(arguments.scenes)]
    results = explain([example.scene.image for example in examples], [example.caption.text for example in examples])
    rows = [draw_attribution(result) for result in results]
    picture = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        picture.paste(row, (0, top))
        top += row.height
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(arguments.out, optimize=True)
    print(arguments.out)


if __name__ == "__main__":
    main()
