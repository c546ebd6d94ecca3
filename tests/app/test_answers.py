"""Answers of the page, with the bundled model."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m2ib_lightning.app.answering import Answerer
from m2ib_lightning.app.example_scenes import save_examples
from m2ib_lightning.app.question import Question
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.methods import METHODS
from m2ib_lightning.results.grounding import Grounding


@pytest.fixture(scope="module")
def answerer() -> Answerer:
    return Answerer("scenes")


@pytest.fixture(scope="module")
def question(tmp_path_factory: pytest.TempPathFactory) -> Question:
    path, caption, _ = save_examples(tmp_path_factory.mktemp("scenes"))[0]
    return Question(Path(path).read_bytes(), caption, method="grad_eclip")


def downloads(html: str) -> dict[str, bytes]:
    """The files that an answer offers."""
    links = re.findall(r'<a download="([^"]+)" href="data:[a-z/]+;base64,([^"]+)">', html)
    return {name: base64.b64decode(content) for name, content in links}


def test_an_answer_has_map_words_units_and_files(answerer: Answerer, question: Question) -> None:
    html = answerer.answer(question)
    assert html.count('alt="the map of ') == 3  # of the whole caption, and of its two phrases
    assert "purple circle</b>" in html
    assert re.search(r'<span style="[^"]+" title="[\d.]+">circle</span>', html)
    files = downloads(html)
    assert list(files) == ["m2ib-1.png", "m2ib-1.json"]
    with Image.open(io.BytesIO(files["m2ib-1.png"])) as picture:
        assert picture.format == "PNG"
    back = Grounding.from_row(json.loads(files["m2ib-1.json"]))
    assert back.whole.pair.caption == question.caption
    assert [unit.text for unit in back.units] == ["purple circle", "blue square"]
    assert np.isfinite(back.maps).all()


def test_two_captions_are_compared(answerer: Answerer, question: Question) -> None:
    other = "<script>alert(1)</script> a red ring"
    html = answerer.answer(Question(question.picture, "a purple circle", other, "scenes", "grad_eclip", "none"))
    assert "<script" not in html
    assert "<strong>a purple circle</strong> matches the picture better" in html
    assert "What speaks for <strong>a purple circle</strong> rather than" in html
    assert html.count('alt="the map"') == 3
    assert len(downloads(html)) == 4
    same = answerer.answer(Question(question.picture, "a circle", "a circle", "scenes", "grad_eclip", "none"))
    assert "There is no map of what sets the two captions apart" in same
    assert "the same embedding" in same
    assert "Both captions match the picture equally" in same


def test_a_caption_of_one_phrase_has_no_units(answerer: Answerer, question: Question) -> None:
    html = answerer.answer(Question(question.picture, "circle", method="grad_eclip"))
    assert html.count('alt="the map"') == 1


@pytest.mark.slow
def test_one_model_is_in_memory(answerer: Answerer, question: Question) -> None:
    first = answerer.load("scenes")
    assert answerer.load("scenes") is first
    other = answerer.load("scenes-untrained")
    assert answerer._loaded is other
    with pytest.raises(M2IBError, match="there is no model 'gone'"):
        answerer.load("gone")
    assert answerer._loaded is None
    assert answerer.methods == list(METHODS)
    assert answerer.answer(question)
