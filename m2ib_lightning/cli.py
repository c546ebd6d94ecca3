"""The command, ``python fit.py`` or ``m2ib-fit``: every mistake in it is an error that names what is right."""

from __future__ import annotations

import inspect
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from m2ib_lightning.config import RENAMED, Config, keys
from m2ib_lightning.errors import BROKEN_PIPE, INTERRUPTED, M2IBError, nearest

CONFIGS = Path(__file__).parent / "configs"

USAGE = """\
usage: python fit.py [--config NAME_OR_FILE] [key=value ...]      (installed: m2ib-fit ...)

Explains image-text pairs and writes a table, pictures and curves to a run directory.
The order is: defaults < --config < the keys of the command line.

  python fit.py data.limit=64
  python fit.py model.name=FOLDER_OR_HUB_ID data.name=captions data.path=pairs.csv
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 when pairs were explained, 1 when every pair failed, 2 when the command or its input was no good, 3 when
        pairs are missing because a rank died, 128 and the signal's number after a signal (130 after Ctrl-C).
    """
    try:
        config = parse(sys.argv[1:] if arguments is None else arguments)
        if isinstance(config, str):
            print(config)
            return 0
        from m2ib_lightning.tasks import run  # torch and Lightning, only when there is work

        return run(config)
    except M2IBError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of a pipe (``| head``) has gone: there is nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def parse(arguments: Sequence[str]) -> Config | str:
    """The configuration, or the text of ``--help``.

    Raises:
        M2IBError: on an unknown key, a wrong type, a config that isn't there, or a word that is no ``key=value``.
    """
    if any(word in ("-h", "--help") for word in arguments):
        return help_text()
    name, pairs = _split(list(arguments))
    config = OmegaConf.structured(Config)
    if name is not None:
        config = _merge(config, _load(name), name)
    for pair in pairs:
        config = _merge(config, _assignment(pair), f"{pair!r}")
    try:
        resolved = cast(Config, OmegaConf.to_object(config))
    except OmegaConfBaseException as error:
        raise M2IBError(f"the configuration does not resolve: {_explained(error)}") from None
    check_trainer_arguments(resolved.trainer)
    return resolved


def help_text() -> str:
    """Usage, the configs that exist, and every key with its type, default and one line."""
    lines = [USAGE, f"configs: {', '.join(config_names())}\n"]
    for key in keys():
        head = f"  {key.name} ({key.type}, default {key.default})"
        lines += [head, *textwrap.wrap(key.help, 110, initial_indent="      ", subsequent_indent="      ")]
    return "\n".join(lines)


def config_names() -> list[str]:
    """The configs that come with the package."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def check_trainer_arguments(arguments: dict[str, Any]) -> None:
    """Check names against ``lightning.Trainer``'s own signature.

    Raises:
        M2IBError: if it has no such argument; names the nearest.
    """
    if not arguments:
        return
    from lightning import Trainer

    known = [name for name in inspect.signature(Trainer.__init__).parameters if name != "self"]
    for name in arguments:
        if name not in known:
            raise M2IBError(f"lightning.Trainer has no argument {name!r} (trainer.{name}).{nearest(name, known)}")


def _split(words: list[str]) -> tuple[str | None, list[str]]:
    config: str | None = None
    pairs = []
    while words:
        word = words.pop(0)
        bare = word.lstrip("-")
        if bare == "config" and word != bare:
            if not words:
                raise M2IBError(f"--config needs a name or a file: {', '.join(config_names())}")
            config = words.pop(0)
        elif bare.startswith("config=") and word != bare:
            config = bare.removeprefix("config=")
        elif re.match(r"[\w.]+=", bare):
            pairs.append(bare)  # OmegaConf would take "--a.b=1" for a key named "--a"
        else:
            raise M2IBError(f"expected key=value or --config NAME_OR_FILE, got {word!r}; --help lists every key")
    return config, pairs


def _assignment(pair: str) -> DictConfig:
    """``key=value``: YAML for numbers and the like, the text as it stands for keys that hold text (paths, names)."""
    name, _, text = pair.partition("=")
    if not text:
        raise M2IBError(f"{pair!r} has no value; give {name}=null for none")
    if next((key.type for key in keys() if key.name == name), None) == "str" and text != "null":
        values = OmegaConf.create({})
        OmegaConf.update(values, name, text.replace("${", r"\${"))
        return values
    try:
        return OmegaConf.from_dotlist([pair])
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        first = str(error).split("\n")[0]
        raise M2IBError(f"{pair!r}: the value is not YAML: {first}") from None


def _load(name: str) -> DictConfig:
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = CONFIGS / f"{name}.yaml"
        if not path.exists():
            known = config_names()
            exists = f"there is {', '.join(known)}, or a file *.yaml."
            raise M2IBError(f"there is no config {name!r}: {exists}{nearest(name, known)}")
    try:
        loaded = OmegaConf.load(path)
    except FileNotFoundError:
        raise M2IBError(f"the config file {name!r} does not exist") from None
    except Exception as error:
        raise M2IBError(f"the config file {name!r} is not YAML: {error}") from None
    if not isinstance(loaded, DictConfig):
        raise M2IBError(f"the config file {name!r} must hold keys and values")
    return loaded


def _merge(config: Any, values: Any, where: str) -> Any:
    known = [key.name for key in keys()]
    for old, new in RENAMED.items():
        if old in _leaves(values):
            raise M2IBError(f"{where}: the key {old!r} is now {new!r}")
    groups = {name.rsplit(".", depth)[0] for name in known for depth in (1, 2)}
    for name in _leaves(values):
        if name not in known and not name.startswith("trainer."):
            if name in groups:
                members = ", ".join(key for key in known if key.startswith(f"{name}."))
                raise M2IBError(f"{where}: {name} is a group of keys: {members}")
            raise M2IBError(f"{where}: unknown key {name!r}.{nearest(name, known)} --help lists every key.")
    try:
        return OmegaConf.merge(config, values)
    except OmegaConfBaseException as error:
        raise M2IBError(f"{where}: {_explained(error)}") from None


def _explained(error: OmegaConfBaseException) -> str:
    """OmegaConf's sentence, and the key's type and meaning."""
    sentence = str(error).split("\n")[0]
    key = next((key for key in keys() if key.name == error.full_key), None)
    return f"{sentence}. {key.name} is {key.type}: {key.help}" if key else sentence


def _leaves(values: Any, prefix: str = "") -> list[str]:
    found = []
    for name in values:
        value = values._get_node(name)
        if isinstance(value, DictConfig):
            found += _leaves(value, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}")
    return found


if __name__ == "__main__":
    sys.exit(main())
