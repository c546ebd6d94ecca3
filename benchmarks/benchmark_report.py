"""The benchmark's table in Markdown, rendered from its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Row:
    """One row of the table."""

    shape: str
    method: str
    batch: int
    seconds_per_pair: float
    flops_per_pair: int | None = None
    share_of_peak: float | None = None
    ratio: float | None = None
    peak_memory: int | None = None
    max_difference: float | None = None
    pearson: float | None = None


def render(report: dict[str, Any]) -> str:
    """Return the report in Markdown: the machine, the table, and the other measurements."""
    machine, peaks = report["machine"], report["peaks"]
    gigaflops = ", ".join(f"{name} {value / 1e9:.0f} GFLOP/s" for name, value in peaks.items())
    return "\n".join(
        [
            f"{machine['name']}, {machine['threads']} threads, torch {machine['torch']}. "
            f"Instructions: {machine.get('flags', 'CUDA ' + str(machine.get('cuda')))}.",
            f"Matrix-product peak: {gigaflops}.",
            "",
            "| shape | method | batch | s/pair | pairs/s | ratio | GFLOP/pair | of peak | peak memory | agreement |",
            "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
            *(_line(Row(**row), report["textbook_steps"]) for row in report["rows"]),
            "",
            *(f"- {fact}" for fact in _facts(report)),
        ]
    )


def _facts(report: dict[str, Any]) -> list[str]:
    floor, call, share = report["floors"], report["explain"], report["lightning_share"]
    shares = ", ".join(f"{kind} {100 * part:.1f} %" for kind, part in report["profile"].items())
    facts = [
        f"The textbook's time is {report['steps']} times the median of its steps 2 to {report['textbook_steps']}.",
        f"Floors (ViT-B/32, float32): the arithmetic at the peak, {floor['arithmetic']:.3f} s a pair; reading the "
        f"weights at {floor['gigabytes_per_second']:.0f} GB/s, {floor['weights_of_a_pair_alone']:.3f} s for a "
        f"pair alone, {floor['weights_of_four_pairs_each']:.3f} s for each of four in a chunk.",
        f"Where the time goes (ViT-B/32, float32, batch 8): {shares}.",
        f"`explain()` of one pair: {call['one_pair']:.3f} s; of {call['batch']:.0f} pairs, "
        f"{call['per_pair_of_a_batch']:.3f} s each; ratio {call['ratio']:.2f}.",
        *(f"{name}: time x {g['time']:.2f}, FLOPs x {g['flops']:.2f}." for name, g in report["growth"].items()),
        f"Lightning: {100 * share['share']:.2f} % of the loop's time is outside tensor work "
        f"(ViT-B/32, batch {share['batch']:.0f}).",
        f"One worker reads {report['loading']:.0f} pairs/s (JPEG of 640 x 480 pixels).",
    ]
    if report["biggest_batch"]:
        facts.append(f"Biggest batch of ViT-B/32 that fits: {report['biggest_batch']}.")
    return facts


def _line(row: Row, textbook_steps: int) -> str:
    agreement = ""
    if row.max_difference is not None:
        agreement = f"float32 differs by {row.max_difference:.1e} after {textbook_steps} steps"
    if row.pearson is not None:
        agreement = f"Pearson {row.pearson:.5f} with float32"
    cells = [
        row.shape,
        row.method,
        row.batch,
        f"{row.seconds_per_pair:.3f}",
        f"{1 / row.seconds_per_pair:.2f}",
        "" if row.ratio is None else f"{row.ratio:.1f}",
        "" if row.flops_per_pair is None else f"{row.flops_per_pair / 1e9:.0f}",
        "" if row.share_of_peak is None else f"{100 * row.share_of_peak:.0f} %",
        "" if row.peak_memory is None else f"{row.peak_memory / 2**20:.0f} MiB",
        agreement,
    ]
    return f"| {' | '.join(map(str, cells))} |"


def growth(rows: list[Row]) -> dict[str, dict[str, float]]:
    """Return how time and FLOPs per pair grow with the batch and with the tokens."""
    smallest = [row for row in rows if row.shape == "ViT-B/32" and row.method == "float32"]
    ratios = {}
    if len(smallest) > 1:
        time = max(row.seconds_per_pair for row in smallest[1:]) / smallest[0].seconds_per_pair
        ratios[f"Batch {smallest[0].batch} to {smallest[-1].batch}, float32, the worst"] = {"time": time, "flops": 1.0}
    for row in rows:
        if row.shape == "ViT-B/32 at 768 px" and smallest:
            same = next((other for other in smallest if other.batch == row.batch), smallest[0])
            if row.method == "float32":
                ratio = {"time": row.seconds_per_pair / same.seconds_per_pair}
                ratio["flops"] = float(row.flops_per_pair or 0) / float(same.flops_per_pair or 1)
                ratios[f"50 to 577 image tokens, float32, batch {row.batch}"] = ratio
    return ratios
