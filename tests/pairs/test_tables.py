"""Tables of every format give the same pairs, and a broken row costs itself only."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from m2ib_lightning.datamodules.captions import CaptionSource, Columns
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.pairs.tables import delimited
from m2ib_lightning.pairs.tables.open_table import open_table
from tests.folders import open_image, save_photograph

CAPTIONS = ["a red circle", "a blue, small star", 'the "white" ring', "NA"]
SIZES = [(40, 30), (30, 40), (64, 64), (100, 20)]
NAMES = ["a.png", "b.jpg", "deep/c.png", "d.png"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "deep").mkdir()
    for name, size in zip(NAMES, SIZES, strict=True):
        save_photograph(folder / name, *size)
    return folder


@pytest.fixture
def folder(photographs: Path, tmp_path: Path) -> Path:
    """A folder with the photographs, to which a test adds its table."""
    return Path(shutil.copytree(photographs, tmp_path, dirs_exist_ok=True))


def open_source(path: Path, columns: Columns | None = None) -> CaptionSource:
    columns = columns or Columns()
    return CaptionSource(open_table(str(path), "train", (columns.text, columns.image)), columns, None)


def write_csv(folder: Path) -> Path:
    quoted = [(name, '"' + caption.replace('"', '""') + '"') for name, caption in zip(NAMES, CAPTIONS, strict=True)]
    (folder / "pairs.csv").write_text("image,caption\n" + "".join(f"{name},{caption}\n" for name, caption in quoted))
    return folder / "pairs.csv"


def write_tsv(folder: Path) -> Path:
    rows = "".join(f"{name}\t{caption}\n" for name, caption in zip(NAMES, CAPTIONS, strict=True))
    (folder / "pairs.tsv").write_text("image\tcaption\n" + rows)
    return folder / "pairs.tsv"


def write_tsv_without_header(folder: Path) -> Path:
    rows = "".join(f"{caption}\t{name}\n" for name, caption in zip(NAMES, CAPTIONS, strict=True))
    (folder / "pairs.tsv").write_text(rows)
    return folder / "pairs.tsv"


def write_jsonl(folder: Path) -> Path:
    rows = [json.dumps({"image": name, "caption": caption}) for name, caption in zip(NAMES, CAPTIONS, strict=True)]
    (folder / "pairs.jsonl").write_text("\n".join(rows))
    return folder / "pairs.jsonl"


def write_parquet(folder: Path) -> Path:
    pq.write_table(pa.table({"image": NAMES, "caption": CAPTIONS}), folder / "pairs.parquet")
    return folder / "pairs.parquet"


def write_parquet_of_pictures(folder: Path) -> Path:
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    pictures = [{"bytes": (folder / name).read_bytes(), "path": None} for name in NAMES]
    rows = datasets.Dataset.from_dict({"image": pictures, "caption": CAPTIONS}, features=features)
    rows.to_parquet(str(folder / "pictures.parquet"))
    return folder / "pictures.parquet"


@pytest.mark.parametrize(
    "write", [write_csv, write_tsv, write_tsv_without_header, write_jsonl, write_parquet, write_parquet_of_pictures]
)
def test_table_formats(folder: Path, write: Callable[[Path], Path]) -> None:
    path = write(folder)
    source = open_source(path)
    assert len(source) == len(CAPTIONS)
    for index, raw in enumerate(source[k] for k in range(len(source))):
        assert raw.key == f"{path.name}:{index}"
        assert raw.caption == CAPTIONS[index]
        assert raw.id is None
        assert raw.image is not None
        assert open_image(raw.image).size == SIZES[index]


def test_image_folder_with_text_files(folder: Path) -> None:
    for name, caption in zip(NAMES, CAPTIONS, strict=True):
        (folder / name).with_suffix(".txt").write_text(caption + "\n")
    source = open_source(folder)
    order = [0, 1, 3, 2]  # sorted by name: deep/c.png is last
    assert [source[k].caption for k in range(4)] == [CAPTIONS[k] for k in order]
    assert [source[k].uri for k in range(4)] == [NAMES[k] for k in order]
    assert source[2].key == f"{folder.name}:2"


def test_a_missing_or_broken_text_file_costs_its_own_pair(folder: Path) -> None:
    (folder / "a.txt").write_bytes("Größe".encode("latin-1"))
    (folder / "b.txt").write_text("a star")
    source = open_source(folder)
    assert str(source[0].error).startswith(
        "a.txt is not UTF-8 (byte 0xf6): save the file as UTF-8, or set data.encoding"
    )
    assert source[1].error is None
    assert source[2].error == "the caption is missing: there is no file d.txt"
    assert [source[k].uri for k in range(3)] == ["a.png", "b.jpg", "d.png"]


def test_image_folder_with_metadata(folder: Path) -> None:
    rows = "".join(f'{name},"{k}"\n' for k, name in enumerate(NAMES))
    (folder / "metadata.csv").write_text("file_name,caption\n" + rows)
    source = open_source(folder)
    assert [source[k].caption for k in range(4)] == ["0", "1", "2", "3"]
    assert open_image(source[3].image).size == SIZES[3]  # type: ignore[arg-type]


def test_columns_are_named_and_ids_keep_their_zeros(folder: Path) -> None:
    (folder / "pairs.csv").write_text("study,view,finding\n007,a.png,a red circle\n")
    source = open_source(folder / "pairs.csv", Columns(image="view", text="finding", id="study"))
    assert (source[0].id, source[0].caption) == ("007", "a red circle")


def test_null_cells(folder: Path) -> None:
    (folder / "pairs.jsonl").write_text('{"image": null, "caption": "a star"}\n{"image": "a.png", "caption": null}\n')
    source = open_source(folder / "pairs.jsonl")
    assert source[0].image is None
    assert source[1].caption is None


@pytest.mark.parametrize(
    ("write", "columns", "message"),
    [
        (
            write_csv,
            Columns(text="captions"),
            r"pairs.csv has no column 'captions' \(data.text_column\): it has image, "
            r"caption. Did you mean 'caption'\?",
        ),
        (write_csv, Columns(image="picture"), r"data.image_column"),
        (write_csv, Columns(id="uid"), r"no column 'uid' \(data.id_column\): it has image, caption"),
        (write_tsv_without_header, Columns(text="finding", id="n"), r"data.id_column"),
    ],
)
def test_missing_columns(folder: Path, write: Callable[[Path], Path], columns: Columns, message: str) -> None:
    path = write(folder)
    with pytest.raises(M2IBError, match=message):
        open_source(path, columns)


def test_a_header_is_not_mistaken_for_a_row(folder: Path) -> None:
    (folder / "pairs.tsv").write_text("text\tfile\na red circle\ta.png\n")
    with pytest.raises(M2IBError, match="it has text, file"):
        open_source(folder / "pairs.tsv")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pairs.csv", b"", "is empty"),
        ("pairs.xlsx", b"x", "files must end in .csv, .tsv"),
        ("pairs.parquet", b"not parquet", "could not be read"),
        ("pairs.jsonl", b"{{{", "could not be read"),
    ],
)
def test_unreadable_tables(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(M2IBError, match=message):
        open_source(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "errors"),
    [
        (
            "ragged.csv",
            b"image,caption\na.png,a cat, and a dog\nb.jpg,x\n",
            ["line 2 of ragged.csv has 3 cells and the header has 2: a cell with a comma needs quotes around it", None],
        ),
        ("short.csv", b"image,caption\nb.jpg,x\na.png\n", [None, "line 3 of short.csv has 1 cells"]),
        ("tab.tsv", b"image\tcaption\na.png\tx\ty\nb.jpg\tx\n", ["a cell can't hold a tab", None]),
        (
            "latin.csv",
            "image,caption\na.png,Größe\nb.jpg,x\n".encode("latin-1"),
            ["line 2 of latin.csv is not UTF-8 (byte 0xf6): save the file as UTF-8", None],
        ),
        (
            "open.csv",
            b'image,caption\na.png,"x\nb.jpg,y\na.png,"z"\n',
            ["line 2 of open.csv could not be read: ", None, None],
        ),
        ("end.csv", b'image,caption\nb.jpg,x\na.png,"x\nb.jpg,y\n', [None, "line 3 of end.csv", None]),
        ("inner.csv", b'image,caption\na.png,"a "small" cat"\nb.jpg,x\n', ["one within quotes not doubled", None]),
        ("long.csv", b'image,caption\na.png,"' + b"x\n" * 70000 + b'"\n', ["line 2 of long.csv could not be read"]),
        (
            "bad.jsonl",
            b'{"image": "a.png", "caption": "x"}\n{oops\n\n[1]\n',
            [None, "line 2 of bad.jsonl is not JSON", "li"],
        ),
        (
            "deep.jsonl",
            b'{"image": "a.png", "caption": "x"}\n' + b"[" * 100000,
            [None, "line 2 of deep.jsonl is not JSON"],
        ),
    ],
)
def test_a_line_that_cannot_be_read_costs_its_own_row(
    folder: Path, name: str, content: bytes, errors: list[str | None]
) -> None:
    (folder / name).write_bytes(content)
    source = open_source(folder / name)
    assert len(source) >= len(errors)
    for index, error in enumerate(errors):
        raw = source[index]
        assert raw.key == f"{name}:{index}"
        if error is None:
            assert raw.error is None
            assert open_image(raw.image).size in SIZES  # type: ignore[arg-type]
        else:
            assert raw.error is not None
            assert error in raw.error


def test_a_quoted_caption_may_contain_line_ends_quotes_and_commas(folder: Path) -> None:
    caption = 'first "line",\r\nsecond\n\nfourth'
    (folder / "pairs.csv").write_bytes(b"\xef\xbb\xbf" + b'"image","caption"\r\n\r\n')
    with (folder / "pairs.csv").open("a", newline="") as file:
        csv.writer(file).writerows([["a.png", caption], ["b.jpg", "x"]])
    source = open_source(folder / "pairs.csv")
    assert [source[k].caption for k in range(len(source))] == [caption, "x"]


LISTS = [["a red circle", "a star"], [], None, ["a ring"]]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_each_caption_of_a_list_is_a_pair(folder: Path, suffix: str) -> None:
    rows = [{"image": "a.png", "caption": captions, "uid": f"id{k}"} for k, captions in enumerate(LISTS)]
    path = folder / f"pairs.{suffix}"
    if suffix == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        datasets.Dataset.from_list(rows).to_parquet(str(path))
    source = open_source(path, Columns(id="uid"))
    pairs = [source[k] for k in range(len(source))]
    name = path.name
    assert [pair.key for pair in pairs] == [f"{name}:0.0", f"{name}:0.1", f"{name}:1", f"{name}:2", f"{name}:3.0"]
    assert [pair.caption for pair in pairs] == ["a red circle", "a star", None, None, "a ring"]
    assert [pair.id for pair in pairs] == ["id0", "id0", "id1", "id2", "id3"]


def test_single_captions_and_lists_in_one_file(folder: Path) -> None:
    lines = [
        {"image": "a.png", "caption": "[a star]"},
        {"image": "a.png", "caption": ["a ring", 3]},
        {"image": "a.png"},
    ]
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    source = open_source(folder / "pairs.jsonl")
    assert [source[k].caption for k in range(len(source))] == ["[a star]", "a ring", "3", None]


def test_single_captions_and_lists_in_a_json_array(folder: Path) -> None:
    rows = [{"image": "a.png", "caption": ["one", "two"]}, {"image": "a.png", "caption": "x"}] * 2
    (folder / "pairs.json").write_text(json.dumps(rows))
    source = open_source(folder / "pairs.json")
    assert [source[k].caption for k in range(len(source))] == ["one", "two", "x"] * 2


@pytest.mark.parametrize("start", [b"\n", b"\r\n\r\n", b"\xef\xbb\xbf\n"])
def test_a_table_may_begin_with_empty_lines(folder: Path, start: bytes) -> None:
    (folder / "pairs.csv").write_bytes(start + b"image,caption\na.png,a star\n")
    assert open_source(folder / "pairs.csv")[0].caption == "a star"


def test_carriage_returns_as_line_ends_are_refused(folder: Path) -> None:
    (folder / "pairs.csv").write_bytes(b"image,caption\ra.png,a star\r")
    with pytest.raises(M2IBError, match=r"do its lines end in .r alone"):
        open_source(folder / "pairs.csv")


def test_many_open_quotes_read_each_line_a_bounded_number_of_times(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines_read = 0
    next_line = delimited._LineReader.__next__

    def count(reader: delimited._LineReader) -> str:
        nonlocal lines_read
        lines_read += 1
        return next_line(reader)

    monkeypatch.setattr(delimited._LineReader, "__next__", count)
    monkeypatch.setattr(delimited, "MAX_RECORD_LINES", 50)
    (folder / "pairs.csv").write_text("image,caption\n" + 'a.png,5 x 7","b\n' * 2000)
    assert "is a quote not closed" in str(open_source(folder / "pairs.csv")[3].error)
    assert lines_read < 2001 * 55  # without a limit it would be 2,000,000


def test_hidden_folders_and_byte_order_marks(folder: Path) -> None:
    (folder / ".hidden").mkdir()
    save_photograph(folder / ".hidden" / "a.png", 9, 9)
    (folder / "a.txt").write_bytes(b"\xef\xbb\xbfa star")
    source = open_source(folder)
    assert len(source) == 4
    assert source[0].caption == "a star"


def test_the_file_name_of_metadata_may_be_the_id(folder: Path) -> None:
    (folder / "metadata.csv").write_text("file_name,caption\na.png,a star\n")
    source = open_source(folder, Columns(id="file_name"))
    assert (source[0].id, source[0].uri) == ("a.png", "a.png")


def test_a_parquet_file_without_rows(folder: Path) -> None:
    pq.write_table(
        pa.table({"image": pa.array([], pa.string()), "caption": pa.array([], pa.string())}), folder / "x.parquet"
    )
    with pytest.raises(M2IBError, match="it has no rows"):
        open_source(folder / "x.parquet")


def test_a_repeated_column_name_is_refused(folder: Path) -> None:
    (folder / "pairs.csv").write_text("image,caption,caption\na.png,x,y\n")
    with pytest.raises(M2IBError, match="more than one column named caption"):
        open_source(folder / "pairs.csv")


def test_an_invalid_parquet_row_costs_itself_only(folder: Path) -> None:
    captions = pa.array([b"a star", b"\xff\xfe", b"a ring"], pa.binary()).view(pa.string())  # no valid UTF-8
    pq.write_table(pa.table({"image": ["a.png"] * 3, "caption": captions}), folder / "pairs.parquet")
    source = open_source(folder / "pairs.parquet")
    assert [source[k].error is None for k in range(3)] == [True, False, True]
    assert "pairs.parquet:1: UnicodeDecodeError" in str(source[1].error)


def test_urls_are_kept_unchanged(folder: Path) -> None:
    (folder / "cc.tsv").write_text("a red circle\thttps://example.com/x.jpg\n")
    assert open_source(folder / "cc.tsv")[0].image == "https://example.com/x.jpg"


@pytest.mark.parametrize("path", ["no/such/file.csv", "/no/such/folder", "pairs.parquet", "./here/there"])
def test_a_path_that_does_not_exist(path: str) -> None:
    with pytest.raises(M2IBError, match="does not exist"):
        open_table(path, "train", ("caption", "image"))


def test_a_hub_data_set_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(M2IBError, match=r"as a hub data set it could not be read(.|\n)*download it elsewhere"):
        open_table("nobody/nothing", "train", ("caption", "image"))


def test_an_image_folder_without_captions(folder: Path) -> None:
    with pytest.raises(M2IBError, match=r"has 4 images and no captions: put metadata\.csv"):
        open_source(folder)
