"""Flickr30k Entities: phrases of captions, with the boxes of their entities."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from m2ib_lightning import load_attributions
from m2ib_lightning.cli import main
from m2ib_lightning.errors import PairError
from m2ib_lightning.pairs.annotations.phrases import parse_sentence
from tests.datamodules.annotated import (
    BOX,
    HEIGHT,
    WIDTH,
    assert_lies_in_cell,
    box_of,
    errors_of,
    evaluate,
    mask_of,
    model_folder,
    open_pairs,
    opening_error,
    pairs_of,
    save_pictures,
)

SENTENCES = [
    "[/EN#7/people Two young guys] with [/EN#8/bodyparts/people shaggy hair] in [/EN#9/scene the yard] .",
    "[/EN#7/people A man 's dog] near [/EN#0/notvisual each other] and [/EN#10/clothing a hat]",
]

# the box of entity 7 is BOX: corners count from 1, and belong to the box
OBJECTS = [
    "<name>7</name><bndbox><xmin>76</xmin><ymin>16</ymin><xmax>90</xmax><ymax>30</ymax></bndbox>",
    "<name>8</name><name>11</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>2</ymax></bndbox>",
    "<name>8</name><bndbox><xmin>11</xmin><ymin>1</ymin><xmax>14</xmax><ymax>2</ymax></bndbox>",
    "<name>9</name><scene>1</scene><nobndbox>0</nobndbox>",
    "<name>10</name><scene>0</scene><nobndbox>1</nobndbox>",
]


def xml(objects: list[str], width: int = WIDTH) -> str:
    """An annotation file in the published layout."""
    size = f"<size><width>{width}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    parts = "".join(f"<object>{content}</object>" for content in objects)
    return f"<annotation><filename>36979.jpg</filename>{size}{parts}</annotation>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the data set, with two pictures."""
    folder = tmp_path / "flickr30k_entities"
    save_pictures(tmp_path / "flickr30k-images", "36979.jpg", "1000092795.jpg")
    for name in ("Sentences", "Annotations"):
        (folder / name).mkdir(parents=True)
    write(folder, "1000092795", SENTENCES[:1], OBJECTS)
    write(folder, "36979", SENTENCES, OBJECTS)
    (folder / "test.txt").write_text("36979\n")
    (folder / "val.txt").write_text("1000092795\n77\n")
    return folder


def write(folder: Path, picture: str, sentences: list[str], objects: list[str] | str) -> None:
    """Write the two files of a picture."""
    (folder / "Sentences" / f"{picture}.txt").write_text("\n".join(sentences) + "\n")
    text = objects if isinstance(objects, str) else xml(objects)
    (folder / "Annotations" / f"{picture}.xml").write_text(text)


def open_folder(folder: Path, *words: str) -> Any:
    return open_pairs("data.name=flickr30k-entities", f"data.path={folder}", *words)


def test_a_row_per_phrase_with_boxes(folder: Path) -> None:
    pairs = pairs_of(open_folder(folder))
    assert [(pair.key, pair.image, pair.caption) for pair in pairs] == [
        ("flickr30k_entities:36979.0.0", "36979.jpg", "Two young guys"),
        ("flickr30k_entities:36979.0.1", "36979.jpg", "shaggy hair"),
        ("flickr30k_entities:36979.1.0", "36979.jpg", "A man 's dog"),
        ("flickr30k_entities:1000092795.0.0", "1000092795.jpg", "Two young guys"),
        ("flickr30k_entities:1000092795.0.1", "1000092795.jpg", "shaggy hair"),
    ]
    guys, hair, dog, _, _ = pairs
    assert guys.sentence == "Two young guys with shaggy hair in the yard ."
    assert dog.sentence == "A man 's dog near each other and a hat"
    assert box_of(guys) == BOX
    assert_lies_in_cell(guys)
    mask = mask_of(hair)
    assert mask.sum() == 2 * 4 * 2
    assert mask[:2, :4].all()
    assert mask[:2, 10:14].all()


def test_a_split_and_the_first_sentence(folder: Path) -> None:
    first = open_folder(folder, "data.split=test", "data.one_caption=true")
    assert [first.key(k) for k in range(len(first))] == [f"flickr30k_entities:36979.0.{k}" for k in range(2)]
    split = open_folder(folder, "data.split=val")
    assert "there is no such file" in errors_of(split)["flickr30k_entities:77"]
    error = opening_error("data.name=flickr30k-entities", f"data.path={folder}", "data.split=dev")
    assert "has no split 'dev' (data.split): its .txt files are test, val" in error


@pytest.mark.parametrize(
    ("sentence", "message"),
    [
        ("[/EN#7/people Two guys with hair", r"mark-up is broken at '\[/EN#7/people Two guys with hair'"),
        ("[/EN#7/people Two] guys] run", r"broken at '\] run'"),
        ("[/EN#7/people Two [/EN#8/people guys] run", r"broken at '\[/EN#7/people Two '"),
        ("[/EN#x/people Two] guys", r"broken at '\[/EN#x/people Two\] guys'"),
        ("[/EN#7/people ] guys", "broken at"),
        ("[/EN#7 Two] guys", "broken at"),
    ],
)
def test_unbalanced_mark_up_is_a_failed_row(sentence: str, message: str, folder: Path) -> None:
    with pytest.raises(PairError, match=message):
        parse_sentence(sentence)
    write(folder, "36979", [SENTENCES[0], sentence, SENTENCES[0]], OBJECTS)
    source = open_folder(folder, "data.split=test")
    ((key, error),) = errors_of(source).items()
    assert key == "flickr30k_entities:36979.1"
    assert re.match("Sentences/36979.txt, line 2: the mark-up is broken at", error)
    assert len(source) == 5


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ([OBJECTS[0].replace("76", "x"), *OBJECTS[1:]], "object 1 of 36979.xml has a box without four numbers"),
        ([OBJECTS[0].replace("90", "60"), *OBJECTS[1:]], r"object 1 of 36979.xml: the box \[75.0, 15.0, -15.0, 15.0\]"),
        ([OBJECTS[0].replace("76", "976").replace("90", "990")], "lies outside the picture of 120 x 60 pixels"),
        (xml(OBJECTS).replace("</annotation>", ""), "36979.xml is not XML: no element found: line 1"),
        (f'<!DOCTYPE a [<!ENTITY b "c">]>{xml(OBJECTS)}', "defines entities of XML, which annotations never do"),
        (xml(OBJECTS, width=-1), "the size of the picture must be whole numbers above 0"),
    ],
)
def test_a_broken_annotation_is_one_failed_row(objects: Any, message: str, folder: Path) -> None:
    write(folder, "36979", SENTENCES, objects)
    source = open_folder(folder)
    ((key, error),) = errors_of(source).items()
    assert key == "flickr30k_entities:36979"
    assert re.search("Sentences/36979.txt: .*" + message, error)
    assert len(source) == 1 + 2


def test_an_unknown_entity_and_a_missing_file_are_failed_rows(folder: Path) -> None:
    write(folder, "36979", [SENTENCES[0]], OBJECTS[1:])
    (folder / "Annotations" / "1000092795.xml").unlink()
    errors = errors_of(open_folder(folder))
    phrase = "the phrase 'Two young guys' names entity 7, which Annotations/36979.xml lacks"
    assert errors["flickr30k_entities:36979.0.0"] == f"Sentences/36979.txt, line 1: {phrase}"
    assert "there is no file Annotations/1000092795.xml" in errors["flickr30k_entities:1000092795"]
    assert len(errors) == 2


def test_a_missing_picture_costs_its_phrases(folder: Path) -> None:
    (folder.parent / "flickr30k-images" / "36979.jpg").unlink()
    errors = errors_of(open_folder(folder))
    assert list(errors) == [f"flickr30k_entities:36979.{k}" for k in ("0.0", "0.1", "1.0")]
    assert all("does not exist" in error for error in errors.values())


def test_another_folder_is_refused(tmp_path: Path) -> None:
    error = opening_error("data.name=flickr30k-entities", f"data.path={tmp_path}")
    assert "is not a folder of Flickr30k Entities: it needs the folders Sentences and Annotations" in error


@pytest.mark.slow
def test_the_evaluation_says_for_how_many_pairs(folder: Path, tmp_path: Path) -> None:
    write(folder, "36979", ["[/EN#7/people Two", *SENTENCES], OBJECTS)
    table = evaluate(tmp_path / "run", "data.name=flickr30k-entities", f"data.path={folder}")
    # a crop that is a square leaves out the hair of both pictures
    assert "(3 pairs, not defined for up to 2 more)" in next(
        line for line in table.splitlines() if line.startswith("- image pointing:")
    )


@pytest.mark.slow
def test_a_resumed_run_keeps_its_rows_and_the_sentence(folder: Path, tmp_path: Path) -> None:
    words = ["data.name=flickr30k-entities", f"data.path={folder}", f"model.name={model_folder()}"]
    words += ["method.name=saliency", "output.heatmaps=0", "trainer.enable_progress_bar=false", "data.num_workers=1"]
    words += [f"output_dir={tmp_path / 'run'}", "data.split=test"]
    assert main([*words, "data.limit=2"]) == 0
    assert main([*words, "resume=true"]) == 0
    rows = load_attributions(tmp_path / "run").to_list()
    assert [row["key"] for row in rows] == [f"flickr30k_entities:36979.{k}" for k in ("0.0", "0.1", "1.0")]
    assert rows[0]["sentence"] == "Two young guys with shaggy hair in the yard ."
