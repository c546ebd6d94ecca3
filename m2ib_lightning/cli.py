"""The command line, ``python fit.py`` or ``m2ib-fit``. A mistake in an argument is an error that names what exists."""

from __future__ import annotations

import inspect
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from m2ib_lightning.config import Config
from m2ib_lightning.errors import BROKEN_PIPE, INTERRUPTED, M2IBError, nearest
from m2ib_lightning.tasks.commands.key_list import keys
from m2ib_lightning.tasks.commands.key_values import configuration

CONFIGS = Path(__file__).parent / "configs"
"""Folder of the configs in the package."""

COMMANDS = {
    "diff": "show where the tables of two runs differ",
    "explain": "explain one picture with its caption, and print the words and the map in the terminal",
    "export": "copy a run to an image folder that datasets reads: pictures, heatmaps and metadata.csv",
    "maps-to-masks": "turn the heatmaps of a run into masks, boxes, prompts and labelled data sets",
    "plan": "estimate the time, files and bytes of a long run from a short one",
    "report": "write the page of a run again, with all its pairs, also while the run is unfinished",
}
"""Names of the subcommands, each with its line in ``--help``; their code is in ``tasks/commands/``."""

MODULES = {"explain": "explain_pair"}
"""Modules whose name is not that of their subcommand."""

USAGE = """\
usage: python fit.py [--config NAME_OR_FILE] [key=value ...]      (installed: m2ib-fit ...)
       python fit.py SUBCOMMAND ...                               (SUBCOMMAND --help lists its arguments)
       python fit.py --models                                     (lists the models that can be explained)

Explains image-text pairs and writes a table, pictures and curves to a run directory.
Keys of the command line override those of --config, which override the defaults.

  python fit.py data.limit=64
  python fit.py model.name=FOLDER_OR_HUB_ID data.name=captions data.path=pairs.csv
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: words of the command line; None for those of this process.

    Returns:
        0 on success, 1 when every pair failed, 2 when the command or its input was wrong, 3 when pairs are missing
        because a rank died, 128 plus the signal's number after a signal (130 after Ctrl-C). A subcommand has its own
        status, and 2 when its arguments or input were wrong.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words and words[0] in COMMANDS:
            return _run_subcommand(words[0], words[1:])
        config = parse(words)
        if isinstance(config, str):
            print(config)
            return 0
        from m2ib_lightning.tasks import run  # late: --help and a typo need neither torch nor Lightning

        return run(config)
    except M2IBError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of the pipe has ended, as ``head`` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _run_subcommand(name: str, words: list[str]) -> int:
    module = import_module(f"m2ib_lightning.tasks.commands.{MODULES.get(name, name.replace('-', '_'))}")
    status: int = module.main(words)
    return status


def parse(arguments: Sequence[str]) -> Config | str:
    """Return the configuration that the arguments give, or the text of ``--help`` or ``--models``.

    Raises:
        M2IBError: if a key is unknown, a value has the wrong type, a config does not exist, or a word is not
            ``key=value``.
    """
    if any(word in ("-h", "--help") for word in arguments):
        return help_text()
    if "--models" in arguments:
        from m2ib_lightning.models.catalogue import models_text  # late: it needs torch

        return models_text()
    name, pairs = _split(list(arguments))
    resolved = configuration(pairs) if name is None else configuration(pairs, _load(name), name)
    check_trainer_arguments(resolved.trainer)
    resolved.data.name = resolved.data.source
    return resolved


def help_text() -> str:
    """Return the text of ``--help``: the usage, subcommands, configs, and each key with type, default and meaning."""
    width = max(map(len, COMMANDS))
    lines = [USAGE, "subcommands:", *(f"  {name:{width}}  {line}" for name, line in COMMANDS.items()), ""]
    lines += [f"configs: {', '.join(config_names())}", "", "keys:"]
    for key in keys():
        head = f"  {key.name} ({key.type}, default {key.default})"
        lines += [head, *textwrap.wrap(key.help, 110, initial_indent="      ", subsequent_indent="      ")]
    return "\n".join(lines)


def config_names() -> list[str]:
    """Return the names of the YAML configs that the package contains."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def check_trainer_arguments(arguments: dict[str, Any]) -> None:
    """Check the names in ``trainer.*`` against the signature of ``lightning.Trainer``.

    Raises:
        M2IBError: if the Trainer lacks one of the arguments; names the nearest.
    """
    if not arguments:
        return
    from lightning import Trainer

    parameters = [name for name in inspect.signature(Trainer.__init__).parameters if name != "self"]
    for name in arguments:
        if name not in parameters:
            raise M2IBError(f"lightning.Trainer has no argument {name!r} (trainer.{name}).{nearest(name, parameters)}")


def _split(words: list[str]) -> tuple[str | None, list[str]]:
    """Return the value of ``--config`` or None, and the pairs ``key=value``."""
    config: str | None = None
    pairs = []
    while words:
        word = words.pop(0)
        stripped = word.lstrip("-")
        if word != stripped and (stripped == "config" or stripped.startswith("config=")):
            if stripped == "config" and not words:
                raise M2IBError(f"--config needs a name or a file: {', '.join(config_names())}")
            if config is not None:
                raise M2IBError("--config is given twice, and one config is read: give single keys for the rest")
            config = words.pop(0) if stripped == "config" else stripped.removeprefix("config=")
        elif re.match(r"[\w.]+=", stripped):
            pairs.append(stripped)  # OmegaConf would read "--a.b=1" as a key named "--a"
        elif word in COMMANDS:
            raise M2IBError(f"the subcommand {word!r} must be the first word of the command")
        else:
            raise M2IBError(
                f"expected key=value, --config NAME_OR_FILE or a subcommand ({', '.join(COMMANDS)}), got {word!r}."
                f"{nearest(word, COMMANDS)} --help lists every key and subcommand"
            )
    return config, pairs


def _load(name: str) -> DictConfig:
    """Return a config, given the name of one in the package or the path of a file."""
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = CONFIGS / f"{name}.yaml"
        if not path.exists():
            names = config_names()
            raise M2IBError(
                f"there is no config {name!r}: there is {', '.join(names)}, or a file *.yaml.{nearest(name, names)}"
            )
    try:
        config = OmegaConf.load(path)
    except FileNotFoundError:
        raise M2IBError(f"the config file {name!r} does not exist") from None
    except Exception as error:
        raise M2IBError(f"the config file {name!r} is not YAML: {error}") from None
    if not isinstance(config, DictConfig):
        raise M2IBError(f"the config file {name!r} must hold keys and values")
    return config


if __name__ == "__main__":
    sys.exit(main())
