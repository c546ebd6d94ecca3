"""The HTML report of a run: its counts, its first failures and its pictures."""

from __future__ import annotations

from html import escape
from typing import Any
from urllib.parse import quote

from m2ib_lightning.files import atomic_write_text
from m2ib_lightning.results.html import page
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.run.summary import Summary, first_rows

_MAX_PICTURES = 200
"""Number of pictures that the report shows."""


def write_report(run: RunDirectory, summary: Summary) -> None:
    """Write ``report.html`` from the table; it links to the PNG files of the run."""
    atomic_write_text(run.report, page("M2IB run", f"<h1>M2IB</h1>{body_of(run, summary)}"))


def body_of(run: RunDirectory, summary: Summary) -> str:
    """Return the body of the report as HTML: the counts, the first failures and the first pictures."""
    facts = "".join(
        f"<tr><th>{escape(name.replace('_', ' '))}</th><td>{_format(value)}</td></tr>"
        for name, value in summary.to_dict().items()
    )
    failures = "".join(
        f'<li class="error">{escape(row["key"])}: {escape(row["error"])}</li>' for row in summary.failures
    )
    unlisted = summary.counts.failed - len(summary.failures)
    if unlisted:
        failures += f"<li>... and {unlisted} more, in the table</li>"
    drawn = first_rows(run, "heatmap", _MAX_PICTURES, ["id", "caption", "heatmap"])
    return f"<table>{facts}</table><ul>{failures}</ul>{''.join(map(_picture, drawn))}"


def _picture(row: dict[str, Any]) -> str:
    name, caption = quote(row["heatmap"]), escape(row["caption"] or "", quote=True)
    return f'<p>{escape(row["id"])}<br><img src="heatmaps/{name}" alt="{caption}"></p>'


def _format(value: Any) -> str:
    if isinstance(value, list):
        return escape(", ".join(map(str, value))) or "none"
    return "none" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
