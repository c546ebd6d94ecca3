"""A run over four pairs, with the files of their pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from m2ib_lightning.run.directory import heatmap_name
from tests.tasks.test_maps_to_masks import with_rows

SIZE = (48, 32)
IDS = ("left", "left again", "../../rotated", "at a url")


def save_run(folder: Path) -> Path:
    """Save a run over four pairs: two with one picture, one whose file is rotated by EXIF, one at a URL."""
    data = folder / "data"
    data.mkdir()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8))
    picture.save(data / "left.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # the file is 32 wide; upright it is 48 wide
    picture.transpose(Image.Transpose.ROTATE_90).save(data / "rotated.jpg", exif=exif)
    images = ["left.png", "left.png", "rotated.jpg", "https://example.org/a.jpg"]
    grid = np.zeros((4, 6))
    grid[0, 0], grid[2:, 4] = 2.0, 1.6
    rows = [
        {"key": f"t.csv:{n}", "id": identity, "image": image, "caption": f"caption {n}", "image_saliency": grid.ravel()}
        | {"grid_height": 4, "grid_width": 6, "image_width": 48, "image_height": 32, "crop": [0, 0, *SIZE]}
        | {"similarity": 0.25}
        for n, (identity, image) in enumerate(zip(IDS, images, strict=True))
    ]
    run = with_rows(folder / "run", [*rows, {"key": "t.csv:4", "id": "failed", "error": "no image"}])
    (run / "config.yaml").write_text(yaml.safe_dump({"data": {"path": str(data / "t.csv"), "image_root": None}}))
    return run


def stems() -> list[str]:
    """Names of the four pairs in the files of a run."""
    return [Path(heatmap_name(identity, f"t.csv:{n}")).stem for n, identity in enumerate(IDS)]
