"""Without OpenCLIP, its models are refused with the command that installs it."""

from __future__ import annotations

import sys

import pytest

from m2ib_lightning import load_model
from m2ib_lightning.errors import M2IBError


def test_the_error_has_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(M2IBError, match=r"pip install 'm2ib_lightning\[open-clip\]'"):
        load_model("open_clip:ViT-B-32/laion2b_s34b_b79k")
