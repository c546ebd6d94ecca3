"""What a table claims or holds costs neither time nor memory, and its pictures as text are decoded."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from m2ib_lightning.datamodules.captions import CaptionSource
from m2ib_lightning.errors import M2IBError, PairError
from m2ib_lightning.pairs.embedded import embedded_picture
from m2ib_lightning.pairs.pair import RawPair
from m2ib_lightning.pairs.tables import lines
from m2ib_lightning.pairs.tables.cells import CellReader, Columns
from m2ib_lightning.pairs.tables.open_table import open_table
from tests.folders import open_image, save_photograph
from tests.pairs.test_image_rules import saved


def opened(path: Path) -> CaptionSource:
    return CaptionSource(open_table(str(path), "train", ("caption", "image")), Columns(), None)


def pairs_of(path: Path) -> list[RawPair]:
    source = opened(path)
    return [source[k] for k in range(len(source))]


WIDE = 60_000


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("with_images", [True, False])
def test_tens_of_thousands_of_columns_take_linear_time(kind: str, with_images: bool, tmp_path: Path) -> None:
    names = ["image" if with_images else "img", "caption", *(f"column {k % (WIDE // 2)}" for k in range(WIDE))]
    cells = ["one.png", "a star", *["0"] * WIDE]
    if kind == "jsonl":
        names = [*names[:2], *(f"column {k}" for k in range(WIDE))]
        content = json.dumps(dict(zip(names, cells, strict=True)))
    else:
        separator = "," if kind == "csv" else "\t"
        content = f"{separator.join(names)}\n{separator.join(cells)}\n"
    (tmp_path / f"wide.{kind}").write_text(content)
    begun = time.process_time()
    if with_images:
        assert pairs_of(tmp_path / f"wide.{kind}")[0].caption == "a star"
    else:
        with pytest.raises(M2IBError, match=r"has no column 'image' .* it has img, caption, .* more\.") as raised:
            opened(tmp_path / f"wide.{kind}")
        assert len(str(raised.value)) < 1000
    assert time.process_time() - begun < 5  # it took minutes when the time grew with the square


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'[{"a":' * 50_000,
        b'{"caption": "x", "image": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"caption": "\\\\", "image": ' + b'{"a": ' * 501 + b"1" + b"}" * 502,
    ],
    ids=["lists", "both", "cell", "escape"],
)
def test_a_json_file_that_is_nested_too_deeply_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_bytes(content)
    with pytest.raises(M2IBError, match="more than 500 lists and objects inside each other"):
        opened(tmp_path / "deep.json")


@pytest.mark.parametrize("chunk", [3, 2**22])
def test_brackets_in_texts_are_no_depth(chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m2ib_lightning.pairs.tables.json_depth._CHUNK_BYTES", chunk)
    caption = '[[[{{ "quoted" \\ [{' * 60
    (tmp_path / "a.json").write_text(json.dumps([{"image": "\\", "caption": caption}] * 2))
    assert [pair.caption for pair in pairs_of(tmp_path / "a.json")] == [caption] * 2


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_record_that_is_too_long_costs_its_own_row(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("lines", "delimited", "jsonl"):
        monkeypatch.setattr(f"m2ib_lightning.pairs.tables.{module}.MAX_RECORD_BYTES", 1000)
    monkeypatch.setattr(lines, "_SKIPPED_BYTES", 100)
    captions = ["one", "x" * 5000, "three"]
    if kind == "csv":
        content = "image,caption\n" + "".join(f'a.png,"{caption}"\n' for caption in captions)
    else:
        content = "".join(json.dumps({"image": "a.png", "caption": caption}) + "\n" for caption in captions)
    (tmp_path / f"a.{kind}").write_text(content)
    first, long, last = pairs_of(tmp_path / f"a.{kind}")
    assert (first.caption, last.caption) == ("one", "three")
    assert " bytes, and the limit is 1,000" in str(long.error)


def test_a_caption_that_is_too_long_costs_its_own_row() -> None:
    reader = CellReader(Columns(), Path())
    assert reader.pair("k", {"image": "a.png", "caption": "a" * 2**20}).error is None
    error = reader.pair("k", {"image": "a.png", "caption": "a" * (2**20 + 1)}).error
    assert error == "the caption has 1,048,577 characters; captions of up to 1,048,576 are read"


def test_a_file_does_not_choose_its_decoders(tmp_path: Path) -> None:
    picture = {"bytes": saved("PNG"), "path": None}
    features = datasets.Features(
        {"image": datasets.Image(), "more": datasets.List(datasets.Image()), "deep": {"a": datasets.Image()}}
    )
    cells: dict[str, Any] = {"image": [picture], "more": [[picture]], "deep": [{"a": picture}]}
    datasets.Dataset.from_dict(cells, features=features).to_parquet(tmp_path / "a.parquet")
    row = open_table(str(tmp_path / "a.parquet"), "train", ("caption", "image"))[0]
    assert row == {name: column[0] for name, column in cells.items()}


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "JPEG2000"])
def test_pictures_as_text_are_recognised(format_: str) -> None:
    content = saved(format_)
    text = base64.b64encode(content).decode()
    broken = "\n".join(text[k : k + 76] for k in range(0, len(text), 76))
    safe = base64.urlsafe_b64encode(content).decode().rstrip("=")
    for form in (text, f" {broken}\n", safe, f"data:image/x;base64,{text}", f"DATA:;base64,{safe}"):
        assert embedded_picture(form) == content


@pytest.mark.parametrize(
    "text", ["cat.jpg", "/9j/4AAQSkZJRg.jpg", "R0lGODlh", "photographs/" + "a" * 100, "https://a.org/iVBORw0KGgo" * 9]
)
def test_paths_and_urls_are_no_pictures(text: str) -> None:
    assert embedded_picture(text) is None


@pytest.mark.parametrize("text", ["data:image/png;base64", "data:image/png;base64,@@@", "data:;base64,é"])
def test_a_broken_data_uri_is_an_error(text: str) -> None:
    with pytest.raises(PairError, match="is a data: URI"):
        open_image(text)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_cells_of_base64_are_pictures(kind: str, tmp_path: Path) -> None:
    content = save_photograph(tmp_path / "photograph.png", 300, 200).read_bytes()
    text = base64.b64encode(content).decode()
    assert len(text) > 131_072  # the limit of the csv module
    cells: list[Any] = [text, f"data:image/png;base64,{text}"]
    if kind == "jsonl":
        cells.append({"bytes": text, "path": None})
        table = "".join(json.dumps({"image": cell, "caption": "a"}) + "\n" for cell in cells)
    else:
        separator = "," if kind == "csv" else "\t"
        quote = '"' if kind == "csv" else ""
        table = "".join(f"{quote}{cell}{quote}{separator}a\n" for cell in ("image", *cells)).replace(
            "a\n", "caption\n", 1
        )
    (tmp_path / f"a.{kind}").write_text(table)
    for k, pair in enumerate(pairs_of(tmp_path / f"a.{kind}")):
        assert (pair.error, pair.image, pair.uri) == (None, content, f"a.{kind}:{k}")
    assert open_image(cells[1]).size == Image.open(tmp_path / "photograph.png").size


@pytest.mark.parametrize("cell", ["x" * 100_000, "x" * 300 + ".png", "data:," + "x" * 100_000, b"x" * 100_000])
def test_an_error_quotes_at_most_eighty_characters_of_a_cell(cell: Any, tmp_path: Path) -> None:
    image = CellReader(Columns(), Path()).pair("k", {"image": cell, "caption": "a"}).image
    with pytest.raises(PairError) as raised:
        open_image(image)  # type: ignore[arg-type]
    assert "x" * 81 not in str(raised.value)
    negatives = CellReader(Columns(negatives="n"), Path()).pair("k", {"image": "a", "caption": "a", "n": [{"x": cell}]})
    assert "hard negatives must be text" in str(negatives.error)
    assert "x" * 81 not in str(negatives.error)
