"""Check that a tag, the package, the citation and the changelog have one version: ``check_release.py v1.2.3``.

The version is written in ``m2ib_lightning/__init__.py``, so a checkout without tags and an archive of one have it too.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACES = {
    "m2ib_lightning/__init__.py": r'^__version__ = "(.+)"$',
    "CITATION.cff": r"^version: (.+)$",
    "CHANGELOG.md": r"^## \[(\d.*?)\]",
}
"""Files that state the version, and the pattern of it. The changelog's newest release counts."""


def disagreements(tag: str, root: Path = ROOT) -> list[str]:
    """Return a line for each file whose version is not that of a tag such as ``v1.2.3``."""
    lines = []
    for name, pattern in PLACES.items():
        match = re.search(pattern, (root / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
        stated = None if match is None else match[1]
        if f"v{stated}" != tag:
            lines.append(f"{name} has version {stated}, and the tag is {tag}")
    return lines


def main(arguments: list[str]) -> int:
    """Print the disagreements; return 1 if there are some, and 2 if no tag was given."""
    if len(arguments) != 1:
        print("usage: check_release.py TAG, such as v1.2.3", file=sys.stderr)
        return 2
    lines = disagreements(arguments[0])
    print("\n".join(lines) or f"{arguments[0]} is the version everywhere")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
