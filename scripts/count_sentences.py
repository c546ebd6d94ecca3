"""Count the words of each sentence of the README and the pages in ``docs/``.

    python scripts/count_sentences.py [FILE ...]

Prints the average of each document, and the ten longest sentences. Code, tables, links' addresses and HTML comments do
not count. A heading, an item of a list and a paragraph each end their sentence.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

_ENDS = re.compile(r"(?<=[.!?])[\"')*_]*\s+(?=[\"'(*_`\[]*[A-Z0-9`$])")
"""A gap between sentences: behind a mark that ends one, before something that begins one."""


def prose(text: str) -> list[str]:
    """Return the paragraphs and items of a Markdown text, each on one line, without what nobody reads as prose."""
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r"^( *)(```|~~~).*?^\1\2[ \t]*$", "\n", text, flags=re.S | re.M)
    text = re.sub(r"\$\$.*?\$\$", "\n", text, flags=re.S)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"^(#.*|\|.*|---+| {4,}.*|:::.*)$", "", text, flags=re.M)
    text = re.sub(r"^ *([-*]|\d+\.) +", "\n\n", text, flags=re.M)
    paragraphs = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))
    return [paragraph for paragraph in paragraphs if re.search(r"\w", paragraph)]


def sentences(text: str) -> list[str]:
    """Return the sentences of a Markdown text."""
    return [part for paragraph in prose(text) for part in _ENDS.split(paragraph) if re.search(r"\w", part)]


def words(sentence: str) -> int:
    """Return the number of words. What stands between backticks or dollars is one word."""
    plain = re.sub(r"`[^`]*`|\$[^$]*\$", "code", sentence)
    return sum(bool(re.search(r"\w", word)) for word in plain.split())


def average(text: str) -> float:
    """Return the mean number of words in the sentences of a Markdown text; 0 without any."""
    counts = [words(sentence) for sentence in sentences(text)]
    return sum(counts) / len(counts) if counts else 0.0


def documents() -> Iterator[Path]:
    """Yield the README and the pages in ``docs/``."""
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").glob("**/*.md"))


def main(arguments: list[str]) -> None:
    """Print the averages and the longest sentences."""
    paths = [Path(argument).resolve() for argument in arguments] or list(documents())
    longest: list[tuple[int, str, str]] = []
    for path in paths:
        name, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        longest += [(words(sentence), name, sentence) for sentence in sentences(text)]
        print(f"{average(text):5.1f} words in {len(sentences(text)):4} sentences  {name}")
    print(f"{sum(count for count, *_ in longest) / max(len(longest), 1):5.1f} words on average\n")
    for count, name, sentence in sorted(longest, reverse=True)[:10]:
        print(f"{count:5} words in {name}: {sentence}")


if __name__ == "__main__":
    main(sys.argv[1:])
