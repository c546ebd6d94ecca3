"""The command: ``python fit.py``, or ``m2ib-fit`` when installed."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from m2ib_lightning.command_line import parse
from m2ib_lightning.errors import BROKEN_PIPE, INTERRUPTED, M2IBError


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


if __name__ == "__main__":
    sys.exit(main())
