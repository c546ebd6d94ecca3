"""The report of a search: what was tried, what was chosen, and how it compares, as text, JSON and an HTML page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from m2ib_lightning.config import Modality
from m2ib_lightning.evaluation.bootstrap import Estimate
from m2ib_lightning.evaluation.tuning.choice import Choice
from m2ib_lightning.evaluation.tuning.objectives import MEANINGS
from m2ib_lightning.m2ib.settings import BottleneckSettings, TowerSettings
from m2ib_lightning.results.html import page

KEYS = ("layer", "beta", "granularity", "prior")
"""Keys of a tower that the search chooses."""

Row = list[str]


@dataclass(frozen=True)
class Tuning:
    """The outcome of ``task=tune``.

    Attributes:
        model: name of the model.
        source: name of the pairs' source.
        choices: choice of each tower.
        preset: the recommended settings.
        trials: number of trials; one trial tries a setting of each tower.
        selection: number of pairs that the settings were tried on.
        confirmation: number of pairs that the best were compared on.
        failures: error of each pair that could not be read or explained, after its key.
        seconds: time of the search and the comparison.
    """

    model: str
    source: str
    choices: dict[Modality, Choice]
    preset: BottleneckSettings
    trials: int
    selection: int
    confirmation: int
    failures: list[str]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``summary.json``."""
        facts = {
            "model": self.model,
            "source": self.source,
            "trials": self.trials,
            "selection_pairs": self.selection,
            "confirmation_pairs": self.confirmation,
            "pairs_failed": len(self.failures),
            "seconds": self.seconds,
        }
        return facts | {str(m): _tower_dict(choice) for m, choice in self.choices.items()}


def _tower_dict(choice: Choice) -> dict[str, Any]:
    return {
        "score": choice.found.objective.name,
        "chosen": asdict(choice.chosen),
        "reason": choice.reason,
        "compared": {
            name: {"settings": asdict(settings), "score": choice.scores[name].to_dict()}
            | ({"minus_present": choice.differences[name].to_dict()} if name in choice.differences else {})
            for name, settings in choice.compared.items()
        },
        "tried": [
            {"settings": asdict(each.settings), "score": each.score, **each.details} for each in choice.found.tried
        ],
    }


def describe(settings: TowerSettings) -> str:
    """Return the keys that the search chooses, with their values, on one line."""
    return ", ".join(f"{key} {getattr(settings, key)}" for key in KEYS)


def to_lines(tuning: Tuning) -> Iterator[str]:
    """Yield the lines that the console shows at the end."""
    for modality, choice in tuning.choices.items():
        yield f"{modality}: {len(choice.found.tried)} settings tried on {tuning.selection} pairs by {_by(choice)}"
        yield f"  on {tuning.confirmation} other pairs:"
        for name, estimate in choice.scores.items():
            yield f"    {name:15} {_interval(estimate)}  {describe(choice.compared[name])}"
        yield f"  chosen: {describe(choice.chosen)}"
        yield f"    {choice.reason}"


def _by(choice: Choice) -> str:
    objective = choice.found.objective
    return f"{objective.name} ({'ground truth' if objective.needs_truth else 'no ground truth'})"


def to_html(tuning: Tuning) -> str:
    """Return the report as a complete HTML page. All text is escaped."""
    facts = (
        f"{tuning.trials} trials on {tuning.selection} pairs of {tuning.source}; the best settings were compared on "
        f"{tuning.confirmation} other pairs, of other pictures. {len(tuning.failures)} pairs could not be read or "
        "explained."
    )
    failures = "".join(f'<li class="error">{escape(line)}</li>' for line in tuning.failures[:5])
    towers = "".join(_tower_html(modality, choice) for modality, choice in tuning.choices.items())
    body = f"<h1>M2IB preset for {escape(tuning.model)}</h1><p>{escape(facts)}</p><ul>{failures}</ul>{towers}"
    return page(f"M2IB preset for {tuning.model}", body)


def _tower_html(modality: Modality, choice: Choice) -> str:
    objective = choice.found.objective
    compared = [
        [
            _marked(choice, choice.compared[name], name),
            describe(choice.compared[name]),
            _interval(estimate),
            _interval(choice.differences[name], signed=True) if name in choice.differences else "",
            *_numbers(choice.details[name], objective.details),
        ]
        for name, estimate in choice.scores.items()
    ]
    by_score = sorted(choice.found.tried, key=lambda each: -math.inf if math.isnan(each.score) else each.score)[::-1]
    details = [name for name in objective.details if any(name in each.details for each in by_score)]
    tried = [
        [
            *(str(getattr(each.settings, key)) for key in KEYS),
            _number(each.score),
            *_numbers(each.details, details),
            ", ".join(_names(choice, each.settings)),
        ]
        for each in by_score
    ]
    reason = choice.reason[0].upper() + choice.reason[1:]
    legend = "; ".join(f"{_label(name)}: {MEANINGS[name]}" for name in objective.details)
    heads = [_label(name) for name in objective.details]
    return (
        f"<h2>{escape(modality.capitalize())} tower</h2>"
        f"<p><b>Chosen: {escape(describe(choice.chosen))}.</b><br>{escape(reason)}.</p>"
        f"<p>Score: {escape(objective.meaning)}. Means with 95 % intervals (bootstrap over pictures). "
        f"<small>{escape(legend)}</small></p>"
        + _table(["other pairs", "settings", objective.name, "difference from the present preset", *heads], compared)
        + f"<h3>{len(tried)} settings tried</h3>"
        + _table([*KEYS, objective.name, *map(_label, details), ""], tried)
    )


def _names(choice: Choice, settings: TowerSettings) -> list[str]:
    names = [name for name, each in choice.compared.items() if each == settings]
    return [*names, *(["chosen"] if settings == choice.chosen else [])]


def _marked(choice: Choice, settings: TowerSettings, name: str) -> str:
    return f"{name} (chosen)" if settings == choice.chosen else name


def _label(measure: str) -> str:
    return measure.partition("_")[2].removesuffix("_raw")


def _numbers(values: dict[str, float], names: Iterable[str]) -> Row:
    return [_number(values.get(name, math.nan)) for name in names]


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _interval(estimate: Estimate, *, signed: bool = False) -> str:
    if math.isnan(estimate.mean):
        return "not defined"
    form = "+.4f" if signed else ".4f"
    return f"{estimate.mean:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"


def _table(head: Row, rows: list[Row]) -> str:
    def line(tag: str, cells: Row) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"

    return f"<table>{line('th', head)}{''.join(line('td', row) for row in rows)}</table>"
