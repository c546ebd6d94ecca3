"""The documents of the repository, and the examples in them."""

from __future__ import annotations

import re
from pathlib import Path

from tests import ROOT

NEW_PAGES = sorted(
    [
        *(ROOT / "docs" / name for name in ("index.md", "quick-start.md", "faq.md")),
        *(path for folder in ("concepts", "how-to", "reference") for path in (ROOT / "docs" / folder).glob("*.md")),
    ]
)
"""The short pages of the site, whose every example runs."""

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]

HUB_ID = "openai/clip-vit-base-patch32"


def name_of(path: Path) -> str:
    """Name of a document in the ids of tests."""
    return path.relative_to(ROOT).as_posix()


def blocks(language: str, text: str) -> list[str]:
    """Return the fenced examples in a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def links(text: str) -> list[tuple[str, str]]:
    """Return the relative links of a text: path (empty for the same page) and anchor (empty for none)."""
    found = re.findall(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [(path, anchor) for path, anchor in found if not re.match(r"[a-z]+:", path)]


def anchors(text: str) -> set[str]:
    """Return the anchors of a text's headings, which GitHub and MkDocs make alike for plain headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings)
    return {re.sub(r"[-\s]+", "-", heading) for heading in plain}
