"""What the scripts share that write a measured table into a document."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from m2ib_lightning.evaluation.comparison import Estimate
from m2ib_lightning.files import atomic_write_text


def write_section(document: Path, name: str, text: str) -> None:
    """Replace the text between ``<!-- name:begin -->`` and ``<!-- name:end -->``.

    Raises:
        SystemExit: if the document has no such marks.
    """
    content = document.read_text(encoding="utf-8")
    pattern = rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)"
    if not re.search(pattern, content, flags=re.DOTALL):
        raise SystemExit(f"{document} has no marks <!-- {name}:begin --> and <!-- {name}:end -->")
    filled = re.sub(pattern, lambda match: f"{match[1]}\n{text.strip()}\n\n{match[2]}", content, flags=re.DOTALL)
    atomic_write_text(document, filled)


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def mean_and_interval(estimate: Estimate) -> str:
    """Return ``mean [low, high]``."""
    return f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
