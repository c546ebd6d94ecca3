"""Questions of the page: what is refused, and with which message; the command's arguments; Gradio missing."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from m2ib_lightning.app.app_command import main, parse
from m2ib_lightning.app.browser_page import OnlyHere, import_gradio
from m2ib_lightning.app.example_scenes import save_examples
from m2ib_lightning.app.question import Limits, Question, check_question, message_html, read_picture
from m2ib_lightning.errors import M2IBError


def encoded(size: tuple[int, int] = (40, 30), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(buffer, kind)
    return buffer.getvalue()


GOOD = Question(encoded(), "a red circle")


def check(question: Question, limits: Limits | None = None) -> None:
    check_question(question, limits or Limits(), ["scenes", "other"], ["m2ib", "gradcam"])


def test_a_good_question_passes() -> None:
    check(GOOD)
    check(replace(GOOD, other="a blue star", model="other", method="gradcam", units="none"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"picture": b""}, "there is no picture: drop one on the page"),
        ({"picture": b"x" * (40 * 2**20)}, r"the picture has 40\.0 MB, and the limit is 20 MB: make a smaller copy"),
        ({"caption": " \n"}, "there is no caption: type what"),
        ({"caption": "a" * 5000}, "the caption has 5,000 characters, and the limit is 1,000"),
        ({"other": "a" * 5000}, "the other caption has 5,000 characters"),
        ({"model": "../secret"}, r"there is no model '\.\./secret': choose from scenes, other"),
        ({"method": "gradcan"}, "there is no method 'gradcan'.*Did you mean 'gradcam'"),
        ({"method": "rise:samples=1000000000"}, "there is no method 'rise:"),
        ({"units": "spacy:x"}, "there is no kind of units 'spacy:x'"),
    ],
)
def test_a_question_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(M2IBError, match=message):
        check(replace(GOOD, **change))


def test_a_picture_has_a_limit_of_pixels() -> None:
    assert read_picture(encoded(), Limits()).size == (40, 30)
    with pytest.raises(M2IBError, match=r"has 2,000 x 600 pixels, and the limit is 1 million: make a smaller copy"):
        read_picture(encoded((2000, 600)), Limits(megapixels=1))
    with pytest.raises(M2IBError, match="could not be read as an image of a known format"):
        read_picture(b"%PDF-1.4 no picture", Limits())
    with pytest.raises(M2IBError, match="the image could not be read"):
        read_picture(encoded()[:60], Limits())


def test_messages_are_escaped() -> None:
    html = message_html("<script>alert(1)</script>")
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert 'role="alert"' in html


def test_limits_are_above_zero() -> None:
    with pytest.raises(M2IBError, match="the limit seconds must be above 0, got 0"):
        Limits(seconds=0)
    assert main(["--seconds", "-1"]) == 2


def test_the_arguments() -> None:
    parsed = parse([])
    assert (parsed.models, parsed.host, parsed.port) == (["scenes"], "127.0.0.1", None)
    assert parse(["--models", "a/b", "scenes"]).models == ["a/b", "scenes"]
    with pytest.raises(M2IBError, match=r"m2ib-app: unknown argument '--modles'\. Did you mean '--models'"):
        parse(["--modles", "x"])
    with pytest.raises(M2IBError, match="--port must be from 1 to 65535, got 0"):
        parse(["--port", "0"])


def test_the_command_names_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(M2IBError, match=r"m2ib-app needs Gradio: pip install 'm2ib_lightning\[app\]'"):
        import_gradio()
    assert main([]) == 2
    assert "error: m2ib-app needs Gradio" in capsys.readouterr().err


def test_the_examples_are_scenes(tmp_path: Any) -> None:
    examples = save_examples(tmp_path / "scenes")
    assert len(examples) == 6
    assert [bool(other) for _, _, other in examples] == [False, True] * 3
    for path, caption, other in examples:
        with Image.open(path) as picture:
            assert picture.size == (64, 64)
        check(Question(b"x", caption, other))


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/gradio_api/file=http://example.org/x.png", 403),
        ("/gradio_api/file=https%3A//example.org/x.png", 403),
        ("/gradio_api/proxy=https://example.org/x", 403),
        ("/gradio_api/file=/some/folder/scene-1.png", 200),
        ("/", 200),
    ],
)
def test_files_of_other_hosts_are_not_fetched(path: str, status: int) -> None:
    import asyncio

    sent: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(OnlyHere(inner)({"type": "http", "path": path}, None, send))
    assert sent[0]["status"] == status
    policies = [value for name, value in sent[0]["headers"] if name == b"content-security-policy"]
    assert bool(policies) == (status == 200)
