"""Hooks of ``mkdocs build``: pages from the code and the root, links that lead out of ``docs/``, equations as MathML.

MkDocs loads this file (``hooks`` in ``mkdocs.yml``). ``pages`` needs no MkDocs, so tests call it without.
"""

from __future__ import annotations

import html
import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from m2ib_lightning.tasks.commands.key_list import Key, keys

ROOT = Path(__file__).parents[1]
REPOSITORY = "https://github.com/m2ib-lightning/m2ib_lightning"
FROM_ROOT = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "README.md": "index.md"}
"""Pages of the site that stand for a file in the root of the repository."""

API = {
    "explain": ("Explain and ground", ["api.explain.explain", "api.ground_units.ground"]),
    "results": (
        "Results",
        [
            *("results.attribution.Attribution", "results.grounding.Grounding", "results.drawable.Drawable"),
            *("results.result_list.ResultList", "results.grid.save_grid", "run.table.load_attributions"),
        ],
    ),
    "models": (
        "Models and settings",
        [
            *("models.load_model", "models.catalogue.list_models", "m2ib.settings.BottleneckSettings"),
            *("m2ib.bottleneck.InformationBottleneck", "encoder.families.register_family"),
        ],
    ),
    "runs": (
        "Runs",
        ["run.m2ib_module.M2IBModule", "finetuning.IBClipModule", "run.precision.half_precision", "errors.M2IBError"],
    ),
    "methods": (
        "Methods",
        ["methods.register_method", "methods.method.Method", "methods.method.SaliencyMethod"],
    ),
    "data": (
        "Data",
        [
            *("datamodules.captions.CaptionsDataModule", "datamodules.scenes.ScenesDataModule"),
            *("datamodules.base.PairDataModule", "datamodules.base.register_datamodule", "pairs.pair.PairSource"),
            "pairs.pair.RawPair",
        ],
    ),
    "metrics": (
        "Metrics",
        ["metrics.localisation", "metrics.curves", "metrics.confidence", "metrics.pair_mean.PairMean"],
    ),
    "masks": (
        "Masks and tables",
        [
            *("results.segmentation.segment", "results.segmentation.RegionOptions", "results.segmentation.Regions"),
            "run.differences.differences",
        ],
    ),
}
"""Pages of the Python reference: title, and what each describes, without ``m2ib_lightning``."""

_LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?(\))")
_FORMULA = re.compile(r'<(?P<tag>div|span) class="arithmatex">(?:\\\[|\\\()(?P<tex>.*?)(?:\\\]|\\\))</(?P=tag)>', re.S)


def pages() -> dict[str, str]:
    """Return the pages that no file in ``docs/`` holds: path in the site, and Markdown."""
    made = {"reference/keys.md": keys_page(), "reference/models.md": models_page()}
    made |= {f"reference/python/{name}.md": api_page(title, objects) for name, (title, objects) in API.items()}
    for file in ("CHANGELOG.md", "CONTRIBUTING.md"):
        made[FROM_ROOT[file]] = rebase((ROOT / file).read_text(encoding="utf-8"))
    return made


def keys_page() -> str:
    """Return the page with every key of ``fit.py``, a table for each group."""
    groups: dict[str, list[Key]] = {}
    for key in keys():
        groups.setdefault(key.name.rpartition(".")[0], []).append(key)
    text = [
        "# Keys of fit.py",
        "The schema in `m2ib_lightning/config.py` makes this page. `python fit.py --help` prints the same.",
        "Give a key as `key=value`. A file of `--config` overrides the defaults, and the command line overrides both.",
    ]
    for group, members in groups.items():
        text.append(f"## {group or 'The run'}")
        rows = [f"| `{key.name}` | {_type(key)} | `{_yaml(key.default)}` | {_cell(key.help)} |" for key in members]
        text.append("\n".join(["| key | type | default | meaning |", "| --- | --- | --- | --- |", *rows]))
    return "\n\n".join(text) + "\n"


def _type(key: Key) -> str:
    """Return the type of a key, or the values that it accepts, as the cell of a table."""
    return _cell(key.type.replace("|", " | "))


def _yaml(default: str) -> str:
    """Return a default as YAML spells it."""
    return {"True": "true", "False": "false"}.get(default, default)


def _cell(text: str) -> str:
    """Return a text as the cell of a table, without any meaning of its characters in Markdown."""
    return re.sub(r"([\\|*_\[\]`])", r"\\\1", html.escape(text, quote=False))


def models_page() -> str:
    """Return the page with the table of models, which ``scripts/write_models.py`` writes into the README.

    Raises:
        ValueError: if the README has no such table.
    """
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = re.search(r"<!-- models:begin -->\n(.*?)<!-- models:end -->", text, flags=re.S)
    if table is None:
        raise ValueError("README.md has no marks <!-- models:begin --> and <!-- models:end --> around its models")
    intro = (
        "A family is a class of models. The class that `architectures` in `config.json` names decides. "
        "`python fit.py --models` prints this table, and the classes that are refused. "
        '"Random weights" means tiny models of the real class, which were compared with their own embeddings. '
        "[Use your own model](../how-to/your-model.md) says how to load one."
    )
    return f"# Models\n\n{intro}\n\n{table[1].strip()}\n"


def api_page(title: str, objects: list[str]) -> str:
    """Return a page that mkdocstrings fills from the docstrings of some objects."""
    return f"# {title}\n\n" + "\n".join(f"::: m2ib_lightning.{name}\n" for name in objects)


def rebase(text: str) -> str:
    """Return the Markdown of a file of the root as a page of ``docs/``: its links start there."""

    def moved(match: re.Match[str]) -> str:
        target = match[2].removeprefix("docs/") if match[2].startswith("docs/") else f"../{match[2]}"
        return f"{match[1]}{target}{match[3] or ''}{match[4]}"

    return _LINK.sub(moved, text)


def outward(text: str, page: str) -> str:
    """Return the Markdown of a page with its links out of ``docs/`` replaced by ones that work in the site.

    Args:
        text: the Markdown.
        page: path of the page in ``docs/``.
    """
    folder = posixpath.join("docs", posixpath.dirname(page))

    def replaced(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, match[2]))
        if path.startswith(("docs/", "../")) or not (ROOT / path).exists():
            return match[0]
        if path in FROM_ROOT:
            target = posixpath.relpath(FROM_ROOT[path], posixpath.dirname(page) or ".")
        else:
            target = f"{REPOSITORY}/{'tree' if (ROOT / path).is_dir() else 'blob'}/main/{path}"
        return f"{match[1]}{target}{match[3] or ''}{match[4]}"

    return _LINK.sub(replaced, text)


def with_mathml(page: str, convert: Callable[..., str]) -> str:
    """Return the HTML of a page with its formulas, which arithmatex marks, as MathML.

    Args:
        page: the HTML.
        convert: ``latex2mathml.converter.convert``.
    """

    def formula(match: re.Match[str]) -> str:
        block = match["tag"] == "div"
        mathml = convert(html.unescape(match["tex"]).strip(), display="block" if block else "inline")
        return f'<div class="equation" tabindex="0">{mathml}</div>' if block else mathml

    return _FORMULA.sub(formula, page)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that no file holds. MkDocs calls this."""
    from mkdocs.structure.files import File  # late: only a build has MkDocs

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Make links out of ``docs/`` work. MkDocs calls this."""
    return outward(markdown, page.file.src_uri)


def on_page_content(html: str, **_: Any) -> str:
    """Turn formulas into MathML. MkDocs calls this."""
    from latex2mathml.converter import convert  # late: only a build has it

    return with_mathml(html, convert)
