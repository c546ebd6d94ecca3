"""``task=evaluate`` runs on each source with truth, and its table says for how many pairs.

Annotation files have a like test beside their other tests; here are tables, folders, streams and scenes.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.datamodules.annotated import BOX, evaluate, save_pictures

OUTSIDE = [0, 0, 20, 20]
"""A box that the crop cuts away: the model sees columns 30 to 90."""

BOXES = [BOX, OUTSIDE, None]


def rows() -> list[dict[str, object]]:
    return [{"image": "a.png", "caption": f"a cat {k}", "box": box} for k, box in enumerate(BOXES)]


def jsonl(folder: Path) -> list[str]:
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    return [f"data.path={folder / 'pairs.jsonl'}", "data.box_column=box"]


def csv_with_masks(folder: Path) -> list[str]:
    mask = Image.new("L", (120, 60))
    mask.paste(255, (75, 15, 90, 30))
    mask.save(folder / "mask.png")
    (folder / "pairs.csv").write_text("image,caption,mask\na.png,a cat,mask.png\na.png,a dog,none.png\na.png,a cow,\n")
    return [f"data.path={folder / 'pairs.csv'}", "data.mask_column=mask"]


def image_folder(folder: Path) -> list[str]:
    lines = [f'a.png,a cat,"{BOX}"', f'a.png,a dog,"{OUTSIDE}"', "a.png,a cow,"]
    (folder / "metadata.csv").write_text("\n".join(["file_name,caption,box", *lines]) + "\n")
    return ["data.name=captions", f"data.path={folder}", "data.box_column=box"]


def parquet_stream(folder: Path) -> list[str]:
    content = (folder / "a.png").read_bytes()
    pq.write_table(pa.Table.from_pylist([row | {"image": content} for row in rows()]), folder / "a.parquet")
    return [f"data.path={folder / 'a.parquet'}", "data.streaming=true", "data.box_column=Box"]


def tar_stream(folder: Path) -> list[str]:
    with tarfile.open(folder / "a.tar", "w") as archive:
        for k, row in enumerate(rows()):
            members = {
                f"{k}.png": (folder / "a.png").read_bytes(),
                f"{k}.json": json.dumps(row | {"image": ""}).encode(),
            }
            for name, content in members.items():
                header = tarfile.TarInfo(name)
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))
    return [f"data.path={folder / 'a.tar'}", "data.box_column=box", "data.image_column=png"]


def scenes(folder: Path) -> list[str]:
    return ["data.name=scenes", "data.limit=3"]


SOURCES: dict[Callable[[Path], list[str]], str] = {
    jsonl: "(1 pairs, not defined for up to 1 more)",
    csv_with_masks: "(1 pairs)",  # the second has no such mask, and fails
    image_folder: "(1 pairs, not defined for up to 1 more)",
    parquet_stream: "(1 pairs, not defined for up to 1 more)",
    tar_stream: "(1 pairs, not defined for up to 1 more)",
    scenes: "(3 pairs)",
}


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_the_evaluation_says_for_how_many_pairs(source: Callable[[Path], list[str]], tmp_path: Path) -> None:
    save_pictures(tmp_path, "a.png")
    table = evaluate(tmp_path / "run", *source(tmp_path))
    line = next(line for line in table.splitlines() if line.startswith("- image pointing:"))
    failed = json.loads((tmp_path / "run" / "summary.json").read_text())["pairs_failed"]
    assert failed == (source is csv_with_masks)
    assert line == f"- image pointing: the highest pixel is on what the caption names {SOURCES[source]}"
