"""Explains one picture with its caption, and prints the words and the map in the terminal.

    m2ib-fit explain cat.jpg "a cat on a sofa" model.name=openai/clip-vit-base-patch32
    m2ib-fit explain cat.jpg "a cat on a sofa" model.name=FOLDER bottleneck.steps=20 --save cat.html

On a terminal, words and map are in colours. Elsewhere, or with NO_COLOR=1, words have numbers and the map has shades.
The keys are model.name, bottleneck.*, method.name, data.fit and seed, as in a run. Without model.name, only the
synthetic scenes of 64 x 64 pixels are explained, by the bundled model.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from m2ib_lightning.config import Config
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.tasks.commands.command_parser import CommandParser
from m2ib_lightning.tasks.commands.key_list import keys
from m2ib_lightning.tasks.commands.key_values import configuration

if TYPE_CHECKING:
    from m2ib_lightning.results.attribution import Attribution

_KEYS = r"model\.name|bottleneck\.(?!enabled|calibration_pairs).*|method\.name|data\.fit|seed"


def main(words: Sequence[str]) -> int:
    """Run the command; return its exit status.

    Raises:
        M2IBError: if an argument or a key is wrong, or the pair can't be explained.
    """
    pairs = [word.lstrip("-") for word in words if _is_key(word)]
    parser = CommandParser("explain", __doc__)
    parser.add_argument("image", metavar="IMAGE", help="the file of the picture")
    parser.add_argument("caption", metavar="CAPTION", help="its caption, in quotes")
    parser.add_argument("--save", metavar="FILE", help="write the result, too: .png or .html")
    parser.add_argument("--width", type=int, default=64, help="largest number of columns of the map; default: 64")
    parser.add_argument("--device", help="device to compute on, such as cuda; default: the CPU")
    parser.epilog = "then keys, as key=value"
    arguments = parser.parse([word for word in words if not _is_key(word)])
    if arguments.width < 1:
        raise M2IBError(f"--width must be at least 1, got {arguments.width}")
    result = _explain(arguments.image, arguments.caption, configuration(pairs), _given(pairs), arguments.device)
    _print(result, arguments.width)
    if arguments.save is not None:
        result.save(arguments.save)
        print(f"saved        {arguments.save}")
    return 0


def _is_key(word: str) -> bool:
    """Whether a word is ``key=value`` of the configuration, and not a caption or a file."""
    groups = {key.name.partition(".")[0] for key in keys()}
    head = re.match(r"-{0,2}(\w+)(\.\w+)*=", word)
    return head is not None and head[1] in groups


def _given(pairs: Sequence[str]) -> set[str]:
    """Return the names of the keys, all of which must be keys of this command."""
    names = {pair.partition("=")[0] for pair in pairs}
    for name in sorted(names):
        if not re.fullmatch(_KEYS, name):
            raise M2IBError(
                f"m2ib-fit explain has no use for {name}: it takes model.name, bottleneck.*, method.name, data.fit "
                "and seed. A run over a table takes every key"
            )
    return names


def _explain(image: str, caption: str, config: Config, given: set[str], device: str | None) -> Attribution:
    from m2ib_lightning.api.explain_options import Options
    from m2ib_lightning.api.explaining import explain_request, size_unlike_scenes
    from m2ib_lightning.api.request import parse_request

    request = parse_request(image, caption)
    size = None if "model.name" in given else size_unlike_scenes(request)
    if size is not None:
        raise M2IBError(
            f"this picture of {size[0]} x {size[1]} pixels needs model.name=FOLDER_OR_HUB_ID: the bundled model "
            "'scenes' knows only synthetic scenes of 64 x 64. model.name=scenes tries it all the same"
        )
    bottleneck = asdict(config.bottleneck)
    for name in ("preset", "enabled", "statistics"):
        del bottleneck[name]
    options = Options(
        model=config.model.name,
        preset=config.bottleneck.preset,
        bottleneck=bottleneck,
        statistics=config.bottleneck.statistics,
        method=config.method.name,
        fit=config.data.fit,
        seed=config.seed,
        device=device,
    )
    (result,) = explain_request(request, options)
    if result.error is not None:
        raise M2IBError(result.error)
    return result


def _print(result: Attribution, width: int) -> None:
    from m2ib_lightning.results.terminal import terminal_colours, terminal_lines

    columns = min(width, shutil.get_terminal_size().columns)
    for line in terminal_lines(result, terminal_colours(sys.stdout, os.environ), columns, sys.stdout.encoding):
        print(line)
