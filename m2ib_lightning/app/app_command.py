"""Starts a page in the browser to try a model: drop a picture, type a caption, see the map and the words.

    m2ib-app
    m2ib-app --models openai/clip-vit-base-patch32 scenes --device cuda

The page listens on this machine alone (127.0.0.1). It keeps no file but the uploads, which are deleted after an hour
and when the command ends. No request leaves the machine, except to download a model of a hub that you name.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from m2ib_lightning.errors import INTERRUPTED, M2IBError
from m2ib_lightning.tasks.commands.command_parser import CommandParser

if TYPE_CHECKING:
    from m2ib_lightning.app.answering import Answerer
    from m2ib_lightning.app.question import Limits


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``m2ib-app`` until Ctrl-C or SIGTERM; return its exit status.

    Args:
        arguments: words of the command line; None for those of this process.
    """
    try:
        _serve(parse(list(sys.argv[1:] if arguments is None else arguments)))
    except M2IBError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def parse(words: Sequence[str]) -> Namespace:
    """Return the arguments of the command line.

    Raises:
        M2IBError: if an argument is wrong.
    """
    parser = CommandParser("app", __doc__)
    parser.prog = "m2ib-app"
    parser.add_argument(
        "--models",
        nargs="+",
        default=["scenes"],
        metavar="NAME",
        help="models to choose from, as model.name takes them; one is in memory at a time; default: the bundled one",
    )
    parser.add_argument("--device", help="device to compute on, such as cuda; default: the model's own")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default: 127.0.0.1")
    parser.add_argument("--port", type=int, help="port to listen on; default: the first free one from 7860")
    parser.add_argument("--seconds", type=float, default=60, help="time limit of an answer; default: 60")
    parser.add_argument("--megabytes", type=float, default=20, help="largest file of a picture; default: 20")
    parser.add_argument("--megapixels", type=float, default=40, help="most pixels of a picture; default: 40")
    parser.add_argument("--characters", type=int, default=1000, help="longest caption; default: 1000")
    parsed = parser.parse(words)
    if parsed.port is not None and not 1 <= parsed.port <= 65535:
        raise M2IBError(f"--port must be from 1 to 65535, got {parsed.port}")
    return parsed


def _serve(arguments: Namespace) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the uploads are deleted
    with tempfile.TemporaryDirectory(prefix="m2ib-app-") as folder:
        # Gradio reads these when it is imported.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(Path(folder) / "uploads")}
        from m2ib_lightning.app.browser_page import build_page, import_gradio, launch_page
        from m2ib_lightning.app.question import Limits
        from m2ib_lightning.app.worker_process import Worker

        limits = Limits(arguments.megabytes, arguments.megapixels, arguments.characters, arguments.seconds)
        gradio = import_gradio()
        worker = Worker(_make_answerer, (arguments.models[0], arguments.device, limits), limits.seconds)
        try:
            page = build_page(
                gradio,
                worker.ask,
                models=arguments.models,
                methods=worker.methods,
                limits=limits,
                folder=Path(folder) / "scenes",
            )
            cache = Path(folder) / "uploads"
            try:
                address = launch_page(
                    gradio, page, host=arguments.host, port=arguments.port, limits=limits, cache=cache
                )
            except OSError as error:
                raise M2IBError(f"the page could not be served on {arguments.host}: {error}") from None
            print(f"the page is at {address} (Ctrl-C ends it)", flush=True)
            try:
                Event().wait()  # Gradio's own wait would hide Ctrl-C
            finally:
                page.close(verbose=False)
        finally:
            worker.close()


def _make_answerer(model: str, device: str | None, limits: Limits) -> Answerer:
    from m2ib_lightning.app.answering import Answerer

    return Answerer(model, device, limits)


if __name__ == "__main__":
    sys.exit(main())
