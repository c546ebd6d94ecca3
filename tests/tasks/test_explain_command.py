"""``m2ib-fit explain``: what it prints, to a file and to a terminal, and its mistakes."""

from __future__ import annotations

import os
import re
import sys
import threading
from pathlib import Path

import pytest

from m2ib_lightning import explain
from m2ib_lightning.cli import main
from m2ib_lightning.results.short_number import short_number
from tests.folders import save_clip_folder, save_photograph

STEPS = ["bottleneck.steps=2", "bottleneck.noise_samples=2", "seed=3"]
CAPTION = "a red circle"


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return save_photograph(tmp_path / "scene.png", 64, 64)


def test_it_prints_what_explain_returns(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = tmp_path / "saved.html"
    assert main(["explain", *STEPS, str(scene), "--save", str(saved), CAPTION, "--width", "20"]) == 0
    printed = capsys.readouterr().out
    result = explain(scene, CAPTION, bottleneck={"steps": 2, "noise_samples": 2}, seed=3)
    assert printed.splitlines()[0] == CAPTION
    for token, nats in zip(result.tokens, result.text_saliency, strict=True):
        assert f"{short_number(nats):>10}  {token}\n" in printed
    assert f"similarity {result.similarity:.3f}\n" in printed
    low, high = map(short_number, (result.image_saliency.min(), result.image_saliency.max()))
    assert re.search(rf"^{low} [ ░▒▓█]+ {high} {re.escape(str(result.image_unit))}$", printed, re.MULTILINE)
    assert len(re.findall(r"^[ ░▒▓█]{20}$", printed, re.MULTILINE)) == 10
    assert "\x1b" not in printed
    assert printed.endswith(f"saved        {saved}\n")
    assert CAPTION.split()[-1] in saved.read_text()


def test_the_keys_of_a_run_set_it_up(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(scene), CAPTION, "bottleneck.preset=published", "bottleneck.steps=1"]) == 0
    assert re.search(r"█ [\d.,]+ nats$", capsys.readouterr().out, re.MULTILINE)  # the recommended one reads a path
    assert main(["explain", str(scene), CAPTION, "method.name=centre"]) == 0
    assert "nats" not in capsys.readouterr().out


def test_colours_on_a_terminal(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.openpty()
    received: list[bytes] = []

    def read() -> None:
        while data := _read(reading):
            received.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLORTERM", "truecolor")
    with open(writing, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        status = main(["explain", str(scene), CAPTION, *STEPS, "--width", "16"])
        monkeypatch.undo()
    reader.join(timeout=20)
    os.close(reading)
    printed = b"".join(received).decode()
    assert status == 0
    assert len(re.findall(r"(?:\x1b\[38;2;[\d;]+m\x1b\[48;2;[\d;]+m▀){16}\x1b\[0m", printed)) == 8
    assert re.sub(r"\x1b\[[\d;]*m", "", printed).startswith(CAPTION)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux: the other end is closed
        return b""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{large}", CAPTION], "this picture of 90 x 60 pixels needs model.name=FOLDER_OR_HUB_ID: the bundled model"),
        (["{scene}", CAPTION, "data.limit=3"], "explain has no use for data.limit: it takes model.name, bottleneck.*"),
        (["{scene}", CAPTION, "bottleneck.enabled=false"], "explain has no use for bottleneck.enabled"),
        (["{scene}", CAPTION, "bottleneck.stps=3"], "unknown key 'bottleneck.stps'. Did you mean 'bottleneck.steps'?"),
        (["{scene}", CAPTION, "method.name=gradcm"], "Did you mean 'gradcam'?"),
        (["{scene}", CAPTION, "bottleneck.steps=0"], "steps must be a whole number of at least 1, got 0"),
        (["{scene}"], "the following arguments are required: CAPTION"),
        (["{scene}", "  "], "caption is empty"),
        (["{scene}", CAPTION, "--widht=3"], "unknown argument '--widht'. Did you mean '--width'?"),
        (["{scene}", CAPTION, "--width=0"], "--width must be at least 1, got 0"),
        (["{scene}", CAPTION, "--device=cuda:99"], "device='cuda:99' can't be used"),
        (["{scene}.png", CAPTION], "does not exist"),
        (["{scene}", CAPTION, "model.name=no/such/folder"], "there is no model 'no/such/folder'"),
    ],
)
def test_mistakes(
    words: list[str], message: str, scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    large = save_photograph(tmp_path / "large.png", 90, 60)
    assert main(["explain", *(word.format(scene=scene, large=large) for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_a_large_picture_with_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, picture = save_clip_folder(tmp_path / "clip"), save_photograph(tmp_path / "large.png", 90, 60)
    assert main(["explain", str(picture), CAPTION, f"model.name={folder}", "bottleneck.steps=1", "data.fit=pad"]) == 0
    assert "not seen by the model" not in capsys.readouterr().out
