"""Tables as Excel, pandas and Windows save them are read, or refused with the cause and what to do."""

from __future__ import annotations

import codecs
import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest

from m2ib_lightning.config import Config, DataConfig
from m2ib_lightning.datamodules.captions import CaptionsDataModule, CaptionSource
from m2ib_lightning.datamodules.conceptual_captions import ConceptualCaptionsDataModule
from m2ib_lightning.datamodules.ms_cxr import MsCxrDataModule
from m2ib_lightning.errors import M2IBError, PairError
from m2ib_lightning.pairs.pair import RawPair
from m2ib_lightning.pairs.prepare import Preparer
from m2ib_lightning.pairs.tables.cells import CellReader, Columns
from m2ib_lightning.pairs.tables.image_paths import image_path
from m2ib_lightning.pairs.tables.open_table import open_table
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.run.resolved_config import to_yaml
from m2ib_lightning.run.resume import check_same_run

CAPTIONS = ["a red circle", "Größe, Maß; Ring", 'the "white" ring', '"quoted"', "two\nlines", "NA"]


def pairs_of(path: Path, columns: Columns | None = None, encoding: str | None = None) -> list[RawPair]:
    columns = columns or Columns()
    table = open_table(str(path), "train", (columns.text, columns.image), encoding)
    source = CaptionSource(table, columns, None)
    return [source[k] for k in range(len(source))]


def read(path: Path, content: str | bytes, columns: Columns | None = None, encoding: str | None = None) -> list[Any]:
    """The captions of a file that is written first, with the error in place of a caption that could not be read."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    pairs = pairs_of(path, columns, encoding)
    assert [pair.key for pair in pairs] == [f"{path.name}:{row}" for row in range(len(pairs))]
    return [pair.error or pair.caption for pair in pairs]


def refusal(path: Path, content: str | bytes, columns: Columns | None = None, encoding: str | None = None) -> str:
    with pytest.raises(M2IBError) as raised:
        read(path, content, columns, encoding)
    return str(raised.value)


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_what_pandas_saves(suffix: str, delimiter: str, quoting: Any, encoding: str, tmp_path: Path) -> None:
    path = tmp_path / f"pairs.{suffix}"
    rows = pd.DataFrame({"image": [f"{k}.png" for k in range(len(CAPTIONS))], "caption": CAPTIONS})
    rows.to_csv(path, sep=delimiter, index=False, quoting=quoting, encoding=encoding)
    pairs = pairs_of(path)
    assert [pair.caption for pair in pairs] == CAPTIONS
    assert [(pair.key, pair.uri) for pair in pairs] == [(f"{path.name}:{k}", f"{k}.png") for k in range(len(CAPTIONS))]


@pytest.mark.parametrize("line", ["sep=;", '"sep=;"', "SEP=;", "\ufeffsep=;"])
def test_the_sep_line_of_excel_names_the_delimiter(line: str, tmp_path: Path) -> None:
    content = f'{line}\r\nimage;caption\r\na.png;"a, b; c"\r\nb.png;x;y\r\n'
    first, second = read(tmp_path / "a.csv", content)
    assert first == "a, b; c"
    assert "line 4 of a.csv has 3 cells and the header has 2: a cell with a semicolon needs quotes" in second


def test_the_sep_line_decides_where_the_header_does_not(tmp_path: Path) -> None:
    header = "image,caption,;image;caption\n"
    assert "split at a comma or a semicolon" in refusal(tmp_path / "a.csv", header + "a.png,x,y\n")
    assert read(tmp_path / "a.csv", f"sep=,\n{header}a.png,x,y\n") == ["x"]
    assert read(tmp_path / "b.csv", "sep=|\nimage|caption\na.png|x, y\n") == ["x, y"]
    assert "must name a comma, a semicolon, a tab or |" in refusal(tmp_path / "c.csv", "sep=x\nimagexcaption\n")


def test_a_table_with_a_single_column_says_what_to_do(tmp_path: Path) -> None:
    message = refusal(tmp_path / "a.csv", "image|caption\na.png|x\n")
    assert "has a single column, 'image|caption': separate its cells with commas, semicolons or tabs" in message
    message = refusal(tmp_path / "b.csv", "bild;text\na.png;x\n")
    assert "has no column 'image' (data.image_column): it has bild, text" in message
    assert read(tmp_path / "b.csv", "bild;text\na.png;x, y\n", Columns("bild", "text")) == ["x, y"]


def test_a_folder_whose_metadata_excel_saved(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_bytes("File_Name;Caption\r\na.png;Größe\r\n".encode("cp1252"))
    (pair,) = pairs_of(tmp_path, encoding="Windows-1252")
    assert (pair.caption, pair.uri) == ("Größe", "a.png")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_spaces_around_a_columns_name_and_capitals_do_not_count(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind}"
    row = {"Image Path": "a.png", " Caption ": "x", "ID": "7"}
    if kind == "jsonl":
        path.write_text(json.dumps(row))
    elif kind == "csv":
        path.write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
    else:
        pd.DataFrame([row]).to_parquet(path)
    (pair,) = pairs_of(path, Columns(image="image path", id="id"))
    assert (pair.uri, pair.caption, pair.id) == ("a.png", "x", "7")
    with pytest.raises(M2IBError, match=r"no column 'image' \(data.image_column\): it has Image Path,  Caption , ID"):
        pairs_of(path)


def test_two_columns_that_could_be_meant_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    assert read(path, "image,caption,Caption\na.png,x,y\n") == ["x"]  # the exact name wins
    assert "more than one column named Caption, CAPTION" in refusal(path, "image,Caption,CAPTION\na.png,x,y\n")
    assert "more than one column named Caption" in refusal(path, "image,Caption,Caption\na.png,x,y\n")
    message = refusal(path, "image,caption,Id,ID\na.png,x,1,2\n", Columns(id="id"))
    assert "more than one column 'id', up to spaces and capitals: 'Id', 'ID'. Set data.id_column" in message


TSV = "image\tcaption\na.png\t{}\nb.png\tx\n"


def test_quotes_in_a_tsv_are_text_unless_all_of_them_are_quoting(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    assert read(path, TSV.format('"stop"')) == ['"stop"', "x"]  # pandas quotes no such cell
    assert read(path, TSV.format('5" x 7"')) == ['5" x 7"', "x"]
    assert read(path, TSV.format('"one ""two"""')) == ['one "two"', "x"]
    assert read(path, TSV.format('"one ""two"""\nc.png\t5" wide')) == ['"one ""two"""', '5" wide', "x"]
    assert read(path, TSV.format('"one\ttwo"')) == ["one\ttwo", "x"]
    assert read(path, TSV.format('"one')) == ['"one', "x"]
    message = refusal(path, TSV.format('"größe, two"'))
    assert """cells like '"größe, two"', whose quotes may be text, or stand around the cell""" in message
    assert read(tmp_path / "a.csv", TSV.format('"one, two"')) == ["one, two", "x"]  # as the message advises
    assert read(path, TSV.format('"""one, two"""')) == ['"one, two"', "x"]
    published = '"one , two"\thttps://example.org/a.jpg\nthree\thttps://example.org/b.jpg\n'
    assert read(tmp_path / "cc.tsv", published) == ['"one , two"', "three"]


def test_a_table_that_is_not_utf_8_names_the_key(tmp_path: Path) -> None:
    content = "image,caption\na.png,Größe\nb.png,x\n".encode("cp1252")
    broken, whole = read(tmp_path / "a.csv", content)
    assert broken.endswith(
        "(byte 0xf6): save the file as UTF-8, or set data.encoding, such as cp1252 for Western Windows"
    )
    assert whole == "x"
    assert read(tmp_path / "a.csv", content, encoding="cp1252") == ["Größe", "x"]
    header = "image,légende\na.png,x\n".encode("cp1252")
    assert "its header is not UTF-8 (byte 0xe9): save the file" in refusal(tmp_path / "b.csv", header)
    assert read(tmp_path / "b.csv", header, Columns(text="Légende"), "cp1252") == ["x"]
    (undefined,) = read(tmp_path / "c.csv", b"image,caption\na.png,\x81\n", encoding="cp1252")
    assert "line 2 of c.csv is not cp1252 (byte 0x81): check data.encoding" in undefined


@pytest.mark.parametrize("mark", [codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, b""])
def test_utf_16_is_told_by_its_mark(mark: bytes, tmp_path: Path) -> None:
    codec = "utf-16-be" if mark == codecs.BOM_UTF16_BE else "utf-16-le"
    # Gurmukhi and Ogham letters whose bytes hold those of a line end, a quote and a comma
    caption = "\u0a0a\u0a0d \u0a22 \u220a\u0a2c\u0a00"
    content = mark + f'image\tcaption\r\n\r\na.png\t{caption}\r\nb.png\t"x\r\n'.encode(codec)
    assert read(tmp_path / "a.tsv", content, encoding=None if mark else codec) == [caption, '"x']
    lines = mark + f'{{"image": "a.png", "caption": "{caption}"}}\n \n{{oops\n'.encode(codec)
    first, second = read(tmp_path / "a.jsonl", lines, encoding=None if mark else codec)
    assert first == caption
    assert "line 3 of a.jsonl is not JSON" in second
    (tmp_path / "one.png").touch()
    (tmp_path / "one.txt").write_bytes(mark + caption.encode(codec))
    for table in ("a.tsv", "a.jsonl"):
        (tmp_path / table).unlink()
    assert [pair.caption for pair in pairs_of(tmp_path, encoding=None if mark else codec)] == [caption]


@pytest.mark.parametrize(
    ("name", "content", "encoding", "message"),
    [
        (
            "a.csv",
            "image,caption\n".encode("utf-16-le"),
            None,
            "without a byte order mark: set data.encoding=utf-16-le",
        ),
        ("a.jsonl", "{}".encode("utf-16-be"), None, "without a byte order mark: set data.encoding=utf-16-be"),
        ("a.csv", "image,caption\n".encode("utf-16-le"), "utf-16", "no byte order mark: set utf-16-le"),
        ("a.csv", "image,caption\n".encode("utf-32"), None, "is UTF-32, which is not read: save it as UTF-8"),
        ("a.csv", codecs.BOM_UTF8 + b"image,caption\n", "cp1252", "byte order mark of utf-8: leave data.encoding out"),
        ("a.jsonl", "{}".encode("utf-16"), "latin-1", "byte order mark of utf-16-le: leave data.encoding out"),
        ("a.csv", b"image,caption\n", "windows", "'windows' is no encoding that Python knows: give utf-8, cp1252"),
        ("a.csv", b"image,caption\n", "utf-7", "'utf-7' is not read"),
        ("a.csv", b"image,caption\n", "iso2022_jp", "'iso2022_jp' is not read"),
        ("a.csv", b"image,caption\n", "base64", "'base64' is not read"),
        ("a.json", b"[]", "cp1252", "data.encoding=cp1252 is for .csv, .tsv and .jsonl tables"),
    ],
)
def test_encodings_that_are_refused(
    name: str, content: bytes, encoding: str | None, message: str, tmp_path: Path
) -> None:
    assert message in refusal(tmp_path / name, content, encoding=encoding)


def test_the_key_of_the_encoding_reaches_the_table(tmp_path: Path) -> None:
    config, preparer = Config(), cast("Preparer", None)  # no pair is prepared
    config.data = DataConfig(path=str(tmp_path / "a.csv"), encoding="cp1252", batch_size=1)
    (tmp_path / "a.csv").write_bytes("image,caption\na.png,Größe\n".encode("cp1252"))
    source = CaptionsDataModule.from_config(config, preparer).source
    assert isinstance(source, CaptionSource)
    assert source[0].caption == "Größe"
    config.data = replace(config.data, path=str(tmp_path / "a.tsv"), allow_urls=True)
    (tmp_path / "a.tsv").write_bytes("Größe\thttps://example.org/a.png\n".encode("cp1252"))
    source = ConceptualCaptionsDataModule.from_config(config, preparer).source
    assert isinstance(source, CaptionSource)
    assert source[0].caption == "Größe"
    with pytest.raises(M2IBError, match=r"data\.name=ms-cxr does not use data.encoding=cp1252: leave it out"):
        MsCxrDataModule.from_config(config, preparer)
    config.data = replace(config.data, streaming=True)
    with pytest.raises(M2IBError, match=r"data\.encoding=cp1252 is for .* tables and .txt files: a stream of shards"):
        CaptionsDataModule.from_config(config, preparer).setup("fit")


def test_a_resumed_run_keeps_its_encoding(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.config.write_text(to_yaml(Config()))
    check_same_run(run, to_yaml(Config()))
    with pytest.raises(M2IBError, match=r"data\.encoding was None and is now 'cp1252'"):
        check_same_run(run, to_yaml(replace(Config(), data=DataConfig(encoding="cp1252"))))


def test_paths_of_windows_below_the_folder_are_read(tmp_path: Path) -> None:
    (tmp_path / "odd\\name.png").touch()
    for cell, path in {
        "deep\\er\\a.png": "deep/er/a.png",
        ".\\deep/a.png": "deep/a.png",
        " a.png ": "a.png",
        "odd\\name.png": "odd\\name.png",  # exists under this name
        "a b.png": "a b.png",
    }.items():
        assert image_path(cell, tmp_path) == tmp_path / path
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "name.png").touch()
    with pytest.raises(PairError, match=r"may be .* or .*: rename one"):
        image_path("odd\\name.png", tmp_path)


@pytest.mark.parametrize("cell", ["C:\\Users\\a.png", "c:/a.png", "\\\\host\\a.png", "\\a.png", "file:///C:/a.png"])
def test_whole_paths_of_windows_are_refused(cell: str, tmp_path: Path) -> None:
    with pytest.raises(PairError, match=r"is a whole path of Windows.*: write paths that start at data\.image_root"):
        image_path(cell, tmp_path)


def test_only_the_own_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert image_path("~/deep/a.png", tmp_path) == tmp_path / "home" / "deep" / "a.png"
    assert image_path("~//etc/a.png", tmp_path) == tmp_path / "home" / "etc" / "a.png"
    for cell in ("~root/a.png", "~root\\a.png"):
        with pytest.raises(PairError, match="in the home of another user, and only ~/ is followed"):
            image_path(cell, tmp_path)
    for cell in ("~a.png", "./~root/a.png", "./~/a.png"):  # no expansion later either
        path = image_path(cell, Path())
        assert isinstance(path, Path)
        assert path.expanduser() == tmp_path / cell


def test_file_urls_name_local_files_only(tmp_path: Path) -> None:
    picture = tmp_path / "a ü%.png"
    for cell in (picture.as_uri(), f"FILE://localhost{picture.as_uri()[7:]}", f"file:{picture.as_uri()[7:]}"):
        assert image_path(cell, Path("/elsewhere")) == picture
    for cell in ("file://host/share/a.png", "file:////host/a.png", "file://a.png", "file:\\\\host\\a.png"):
        with pytest.raises(PairError, match="is on another machine, and file: URLs are only read of this one"):
            image_path(cell, tmp_path)
    with pytest.raises(PairError, match="names no file"):
        image_path("file:///", tmp_path)
    assert image_path("https://example.org/a.png", tmp_path) == "https://example.org/a.png"
    assert image_path("file:a.png", tmp_path) == tmp_path / "file:a.png"


def test_a_refused_path_costs_its_own_row(tmp_path: Path) -> None:
    content = "image;caption;mask\nC:\\a.png;x;\na.png;y;file://host/m.png\ndeep\\a.png;z;\n"
    (tmp_path / "a.csv").write_text(content)
    errors = [pair.error for pair in pairs_of(tmp_path / "a.csv", Columns(mask="Mask"))]
    assert "whole path of Windows" in str(errors[0])
    assert "on another machine" in str(errors[1])
    assert errors[2] is None


def test_boxes_in_cells_of_text(tmp_path: Path) -> None:
    cells = ['"[1, 2, 3, 4]"', '"[[1, 2, 3, 4], [5, 6, 7, 8]]"', "", " ", "null", "1 2 3 4", "5", '"{""x"": 1}"']
    (tmp_path / "a.csv").write_text("image,caption,box\n" + "".join(f"a.png,x,{cell}\n" for cell in cells))
    read = pairs_of(tmp_path / "a.csv", Columns(boxes="box"))
    one, two, *blank = read[:5]
    assert one.truth is not None
    assert two.truth is not None
    assert (one.truth.boxes, two.truth.boxes) == ([[1, 2, 3, 4]], [[1, 2, 3, 4], [5, 6, 7, 8]])
    assert [(pair.truth, pair.error) for pair in blank] == [(None, None)] * 3
    for pair, cell in zip(read[5:], ["'1 2 3 4'", "'5'", "'{"], strict=True):
        assert f"a box must be [left, top, width, height] in pixels, got {cell}" in str(pair.error)


def test_paths_of_a_stream_follow_the_same_rules() -> None:
    pair = CellReader(Columns(), Path("/data")).pair(
        "k", {"image": {"bytes": None, "path": "b\\a.png"}, "caption": "x"}
    )
    assert (pair.image, pair.uri) == (Path("/data/b/a.png"), "b\\a.png")
