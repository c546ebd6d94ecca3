"""A plain page to look at: the counts, the drawn pairs, and the first failures."""

from __future__ import annotations

from html import escape
from pathlib import Path
from urllib.parse import quote

from lightning import Trainer
from typing_extensions import override

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.callbacks.base import ResultsCallback
from m2ib_lightning.callbacks.summary import RunSummary
from m2ib_lightning.html import page

_MOST = 200


class ReportWriter(ResultsCallback):
    """Writes ``report.html`` when the run ends; the pictures are the PNG files beside it.

    Args:
        path: where to write.
        summary: the callback that counts; put it before this one.
    """

    def __init__(self, path: Path, summary: RunSummary) -> None:
        self.path = path
        self.summary = summary
        self._pictures: list[str] = []

    @override
    def on_results(self, trainer: Trainer, results: list[Attribution]) -> None:
        for result in results:
            if result.heatmap is not None and len(self._pictures) < _MOST:
                name, caption = quote(result.heatmap), escape(result.pair.caption or "", quote=True)
                self._pictures.append(f'<p>{escape(result.pair.id)}<br><img src="heatmaps/{name}" alt="{caption}"></p>')

    @override
    def finish(self, trainer: Trainer) -> None:
        facts = "".join(
            f"<tr><th>{escape(name.replace('_', ' '))}</th><td>{_shown(value)}</td></tr>"
            for name, value in self.summary.to_dict().items()
        )
        failures = "".join(
            f'<li class="error">{escape(result.pair.key)}: {escape(result.error or "")}</li>'
            for result in self.summary.failures
        )
        unlisted = self.summary.failed - len(self.summary.failures)
        if unlisted:
            failures += f"<li>... and {unlisted} more, in the table</li>"
        body = f"<h1>M2IB</h1><table>{facts}</table><ul>{failures}</ul>{''.join(self._pictures)}"
        self.path.write_text(page("M2IB run", body), encoding="utf-8", errors="replace")


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
