"""The documentation site is whole without MkDocs: navigation, links, pages from the code, sentences."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import count_sentences
import docs_site
import pytest
import yaml

import m2ib_lightning
from m2ib_lightning.cli import COMMANDS
from m2ib_lightning.run.parts import SCHEMA
from m2ib_lightning.tasks.commands.key_list import keys
from tests import ROOT
from tests.documents import DOCUMENTS, NEW_PAGES, anchors, links, name_of

SITE: dict[str, Any] = yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def leaves(nav: Any) -> Iterator[str]:
    """Yield the pages of a navigation."""
    if isinstance(nav, str):
        yield nav
    for item in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from leaves(item)


def test_the_navigation_has_every_page_once() -> None:
    listed = sorted(leaves(SITE["nav"]))
    written = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").glob("**/*.md")]
    assert listed == sorted([*written, *docs_site.pages()])


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_relative_link_and_anchor_resolves(document: Path) -> None:
    made = docs_site.pages()
    for path, anchor in links(document.read_text()):
        target = (document.parent / path).resolve() if path else document
        if target.exists():
            text = target.read_text() if target.suffix == ".md" else ""
        else:
            text = made[target.relative_to(ROOT / "docs").as_posix()]  # a page that the site makes
        assert not anchor or anchor in anchors(text), (path, anchor)


def test_links_out_of_docs_lead_to_the_repository_or_to_a_page() -> None:
    text = "[a](../CONTRIBUTING.md#set-up) [b](../tests/reference.py) [c](../configs) [d](trust.md) [e](https://x.y/z)"
    repository = docs_site.REPOSITORY
    assert docs_site.outward(text, "page.md") == (
        f"[a](contributing.md#set-up) [b]({repository}/blob/main/tests/reference.py) "
        f"[c]({repository}/tree/main/configs) [d](trust.md) [e](https://x.y/z)"
    )
    assert docs_site.outward("[a](../../CHANGELOG.md)", "how-to/page.md") == "[a](../changelog.md)"
    assert docs_site.rebase("[a](docs/data.md#x) [b](tests/zoo.py)") == "[a](data.md#x) [b](../tests/zoo.py)"


def test_the_page_of_keys_has_every_key() -> None:
    page = docs_site.pages()["reference/keys.md"]
    assert all(page.count(f"| `{key.name}` |") == 1 for key in keys())
    assert "runs/&lt;date&gt;" in page


def test_the_python_reference_has_every_public_name() -> None:
    described = {name.rpartition(".")[2] for _, objects in docs_site.API.values() for name in objects}
    assert set(m2ib_lightning.__all__) - {"__version__"} <= described


def test_formulas_become_mathml() -> None:
    def convert(tex: str, display: str) -> str:
        return f"<math {display}>{tex}</math>"

    page = r'<p><span class="arithmatex">\(a &lt; b\)</span></p><div class="arithmatex">\[ c \]</div>'
    expected = '<p><math inline>a < b</math></p><div class="equation" tabindex="0"><math block>c</math></div>'
    assert docs_site.with_mathml(page, convert) == expected


def test_the_page_of_columns_is_that_of_the_schema() -> None:
    rows = re.findall(r"^\| (`.+?) \|", (ROOT / "docs/reference/columns.md").read_text(), flags=re.MULTILINE)
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(SCHEMA.names)


def test_the_page_of_the_command_has_every_subcommand() -> None:
    page = (ROOT / "docs/reference/command.md").read_text().split("## Subcommands")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `([\w-]+)` \|", page, flags=re.MULTILINE)) == set(COMMANDS)


def test_the_faq_has_twenty_questions_each_with_its_thread() -> None:
    _, *questions = (ROOT / "docs/faq.md").read_text().split("\n### ")
    assert len(questions) >= 20
    assert all(re.search(r"https://github\.com/\S+/issues/\d+", question) for question in questions)


def test_the_makefile_installs_the_group_of_the_site() -> None:
    group = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["docs"]
    packages = re.findall(r"^DOCS_PACKAGES := (.+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)[0]
    assert sorted(packages.split()) == group


def test_nothing_of_the_theme_comes_from_another_host() -> None:
    assert SITE["theme"]["font"] is False
    assert "offline" in SITE["plugins"]
    assert all((ROOT / "docs" / file).is_file() for file in (*SITE["extra"]["polyfills"], *SITE["extra_css"]))
    assert "repo_url" not in SITE  # the theme would ask GitHub for stars in each page


def test_sentences_are_counted() -> None:
    text = (
        "# A title of five words\n\nOne two `three four`. Five six\nseven!\n\n- eight\n- [nine](x.md) ten.\n\n| no |\n"
    )
    assert [count_sentences.words(each) for each in count_sentences.sentences(text)] == [3, 3, 1, 2]
    assert count_sentences.average(text) == 9 / 4
    assert count_sentences.average("```text\nall code\n```\n") == 0


@pytest.mark.parametrize("page", NEW_PAGES, ids=name_of)
def test_sentences_are_short(page: Path) -> None:
    assert count_sentences.average(page.read_text()) < 16


def test_sentences_of_the_whole_documentation_are_short() -> None:
    pages = [path.read_text() for path in count_sentences.documents()]
    counts = [count_sentences.words(each) for text in pages for each in count_sentences.sentences(text)]
    assert sum(counts) / len(counts) < 16
