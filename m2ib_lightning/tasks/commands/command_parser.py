"""The argument parser of the subcommands: a mistake is an ``M2IBError`` that names what exists."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from typing_extensions import override

from m2ib_lightning.errors import M2IBError, nearest


class CommandParser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that raises instead of exiting.

    Args:
        name: name of the subcommand.
        description: text of its ``--help``: the docstring of the command's module.
    """

    def __init__(self, name: str, description: str | None) -> None:
        super().__init__(
            prog=f"m2ib-fit {name}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Return the parsed arguments.

        Raises:
            M2IBError: on an unknown option, a missing argument or a bad value.
        """
        arguments, unknown = self.parse_known_args(words)
        if unknown:
            word = unknown[0].partition("=")[0]
            self.error(f"unknown argument {word!r}.{nearest(word, self._option_string_actions)}")
        return arguments

    @override
    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            message = f"must be one of {', '.join(choices)}, got {value!r}.{nearest(str(value), choices)}"
            raise argparse.ArgumentError(action, message)

    @override
    def error(self, message: str) -> NoReturn:
        full_stop = "" if message.endswith((".", "?")) else "."
        raise M2IBError(f"{self.prog}: {message}{full_stop} {self.prog} --help lists the arguments")
