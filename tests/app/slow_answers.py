"""What answers in the process of the tests: it can be slow, fail, or end."""

from __future__ import annotations

import os
import time

from m2ib_lightning.app.question import Question
from m2ib_lightning.errors import M2IBError


class SlowAnswers:
    """Answers as the caption says."""

    methods = ("m2ib", "other")

    def load(self, name: str) -> None:
        """Refuse one model."""
        if name == "missing":
            raise M2IBError("there is no model 'missing'")

    def answer(self, question: Question) -> str:
        """Answer, or do what the caption says."""
        match question.caption:
            case "sleep":
                time.sleep(600)
            case "end":
                os._exit(1)
            case "fail":
                raise ValueError("a secret of the machine")
        return f"{question.caption} by {os.getpid()}"


def make(error: str = "") -> SlowAnswers:
    """Make what answers, or fail."""
    if error:
        raise M2IBError(error)
    return SlowAnswers()
