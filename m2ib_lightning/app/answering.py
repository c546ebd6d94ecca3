"""Answers the questions of the page, with one model in memory at a time."""

from __future__ import annotations

import gc

from PIL import Image

from m2ib_lightning.api.explain import explain
from m2ib_lightning.api.ground_units import ground
from m2ib_lightning.app.answer_html import Answer, answer_html
from m2ib_lightning.app.question import Limits, Question, read_picture
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.methods import METHODS
from m2ib_lightning.models import LoadedModel, load_model
from m2ib_lightning.results.attribution import Attribution


class Answerer:
    """Answers questions, one at a time.

    Args:
        model: name of the model to load first.
        device: device to compute on; None for the models' own.
        limits: the limits of a question.

    Raises:
        M2IBError: if the model can't be loaded.
    """

    def __init__(self, model: str, device: str | None = None, limits: Limits | None = None) -> None:
        self.device = device
        self.limits = limits or Limits()
        self._loaded: LoadedModel | None = None
        self._name = ""
        self.load(model)

    @property
    def methods(self) -> list[str]:
        """Names of the attribution methods."""
        return list(METHODS)

    def load(self, name: str) -> LoadedModel:
        """Return a model, loaded if it is not the last one, which leaves the memory first.

        Raises:
            M2IBError: if the model can't be loaded.
        """
        if self._loaded is None or name != self._name:
            self._loaded, self._name = None, ""
            gc.collect()
            self._loaded = load_model(name)
            self._name = name
        return self._loaded

    def answer(self, question: Question) -> str:
        """Return the answer to a question as HTML.

        Raises:
            M2IBError: if the picture, a caption or a setting is wrong.
        """
        model = self.load(question.model)
        picture = read_picture(question.picture, self.limits)
        captions = [question.caption] + ([question.other] if question.other.strip() else [])
        results = [self._result(picture, caption, question, model) for caption in captions]
        return answer_html(Answer(results, self._contrast(picture, captions, question, model), question))

    def _result(self, picture: Image.Image, caption: str, question: Question, model: LoadedModel) -> Attribution:
        if question.units == "none":
            return explain(picture, caption, model=model, method=question.method, device=self.device)
        return ground(
            picture, caption, units=question.units, model=model, method=question.method, device=self.device
        ).whole

    def _contrast(
        self, picture: Image.Image, captions: list[str], question: Question, model: LoadedModel
    ) -> Attribution | str | None:
        """What speaks for the first caption rather than the second; or why that can't be said; None for one caption."""
        if len(captions) < 2:
            return None
        first, second = captions
        try:
            return explain(picture, first, against=second, model=model, method=question.method, device=self.device)
        except M2IBError as error:  # the same embedding, or a method that knows no contrast
            return str(error)
