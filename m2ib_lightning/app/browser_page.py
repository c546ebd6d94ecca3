"""The page itself, made with Gradio: inputs, examples, and the answer. What it does is in the modules beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from m2ib_lightning.app.example_scenes import save_examples
from m2ib_lightning.app.question import UNITS, Limits, Question, check_question, message_html
from m2ib_lightning.errors import M2IBError

STYLE = (Path(__file__).parent / "app.css").read_text(encoding="utf-8")

INTRODUCTION = """\
<h1>What in this picture, and which words, made the model match them?</h1>
<p>Drop a picture, type a caption, and press Explain. Point at a coloured unit of the caption to see its part of the
picture. The bundled model knows coloured shapes only, as in the scenes below.</p>
"""

POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; font-src 'self' data:; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'; connect-src 'self'; form-action 'none'; base-uri 'self'"
)
"""Content security policy of every answer: the page loads nothing from other hosts."""

_OTHER_HOSTS = re.compile(r"/(?:file|proxy)=\W*\w+:/", re.IGNORECASE)


class OnlyHere:
    """ASGI middleware: refuses paths by which Gradio would fetch a file of another host, and sets the policy.

    Args:
        app: the application inside.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        if scope["type"] == "http" and _OTHER_HOSTS.search(unquote(scope["path"])):
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"files of other hosts are not served"})
            return

        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, send_with_policy)


def import_gradio() -> Any:
    """Import and return Gradio.

    Raises:
        M2IBError: if it is not installed; the message names the command that installs it.
    """
    try:
        return import_module("gradio")
    except ImportError as error:
        raise M2IBError(f"m2ib-app needs Gradio: pip install 'm2ib_lightning[app]' ({error})") from None


def build_page(
    gradio: Any,
    ask: Callable[[Question], str],
    *,
    models: Sequence[str],
    methods: Sequence[str],
    limits: Limits,
    folder: Path,
) -> Any:
    """Build the page.

    Args:
        gradio: the module.
        ask: answers a question as HTML.
        models: names of the models that are offered.
        methods: names of the methods that are offered.
        limits: the limits of a question.
        folder: folder for the pictures of the examples.

    Returns:
        The page, to be launched.
    """

    def explain(path: str | None, caption: str, other: str, model: str, method: str, units: str) -> str:
        try:
            content = _content(path, limits)
            question = Question(content, caption or "", other or "", model, method, units)
            check_question(question, limits, models, methods)
            return ask(question)
        except M2IBError as error:
            return message_html(str(error))

    with gradio.Blocks(title="m2ib_lightning", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gradio.HTML(INTRODUCTION)
        with gradio.Row():
            with gradio.Column(scale=2, min_width=300):
                picture = _picture_input(gradio)
                caption = gradio.Textbox(label="Caption", lines=2, max_lines=6)
                other = gradio.Textbox(label="Another caption, to compare (optional)", lines=1, max_lines=6)
                model = gradio.Dropdown(list(models), value=models[0], label="Model", visible=len(models) > 1)
                method = gradio.Dropdown(list(methods), value="m2ib", label="Method")
                units = gradio.Radio(list(UNITS), value=UNITS[0], label="Units of the caption with their own map")
                button = gradio.Button("Explain", variant="primary")
            with gradio.Column(scale=3, min_width=300):
                answer = gradio.HTML('<p class="m2ib-hint">The answer will be here.</p>', elem_id="answer")
        gradio.Examples(
            save_examples(folder), [picture, caption, other], label="Scenes", api_visibility="private", preload=False
        )
        inputs = [picture, caption, other, model, method, units]
        options = {"concurrency_limit": 1, "concurrency_id": "explain", "api_visibility": "private"}
        button.click(explain, inputs, answer, **options)
        caption.submit(explain, inputs, answer, **options)
    return page.queue(max_size=int(limits.waiting), api_open=False)


def launch_page(gradio: Any, page: Any, *, host: str, port: int | None, limits: Limits, cache: Path) -> str:
    """Start the server of the page in a thread; return the page's address.

    Args:
        gradio: the module.
        page: the page.
        host: address to listen on.
        port: port to listen on; None for the first free one from 7860.
        limits: the limits of a question.
        cache: folder of the uploads, the only files that are served.
    """
    fonts = [gradio.themes.Font(name) for name in ("system-ui", "sans-serif")]
    mono = [gradio.themes.Font(name) for name in ("ui-monospace", "monospace")]
    blocked = [folder for folder in (Path.cwd(), Path.home()) if not cache.resolve().is_relative_to(folder.resolve())]
    middleware = import_module("starlette.middleware").Middleware(OnlyHere)
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        inbrowser=False,
        prevent_thread_lock=True,
        quiet=True,
        allowed_paths=[],
        blocked_paths=[str(folder) for folder in blocked],
        max_file_size=limits.bytes,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        footer_links=[],
        theme=gradio.themes.Base(font=fonts, font_mono=mono),
        css=STYLE,
        app_kwargs={"middleware": [middleware]},
    )
    return str(address)


def _picture_input(gradio: Any) -> Any:
    """The input for the picture, which hands over the file as it was uploaded.

    Gradio would decode the picture in its own process, without our limits, and would download one that is a URL.
    """
    picture = gradio.Image(
        type="filepath", sources=["upload", "clipboard"], label="Picture", height=280, buttons=[], elem_id="picture"
    )
    keep = picture.async_move_resource_to_block_cache

    async def keep_uploads_only(source: Any) -> Any:
        if source is not None and "://" in str(source):
            raise gradio.Error("A picture must be uploaded: addresses are not fetched.", print_exception=False)
        return await keep(source)

    picture.async_move_resource_to_block_cache = keep_uploads_only
    picture.preprocess = lambda payload: None if payload is None else payload.path
    return picture


def _content(path: str | None, limits: Limits) -> bytes:
    """The content of an upload; of one that is too large, one byte more than the limit."""
    if path is None:
        return b""
    with Path(path).open("rb") as file:
        return file.read(limits.bytes + 1)
