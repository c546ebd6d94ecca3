"""From a short run, how a long one will go: time, files, bytes.

    python fit.py data.limit=500 output_dir=pilot ...          # on devices of the kind that will do the work
    python scripts/plan_run.py pilot --pairs 10_000_000 --ranks 64

Ranks share nothing while they work, so the rate is that of one times their number, as long as the file system and the
processes that decode keep up; the start of a launch (loading, reading what is done) is not in it.
"""

from __future__ import annotations

import argparse
import inspect
import json
from math import ceil
from pathlib import Path

from m2ib_lightning.run.callbacks import TableWriter


def plan(pilot: Path, pairs: int, ranks: int, rate: float | None) -> dict[str, float]:
    """Rate of a rank, hours, files and bytes."""
    summary = json.loads((pilot / "summary.json").read_text())
    done = summary["pairs_done"] + summary["pairs_failed"]
    launch = json.loads(max((pilot / "launches").glob("*/launch.json")).read_text())
    rate = rate or summary["pairs_per_second"] / launch["world_size"]
    size = sum(part.stat().st_size for part in (pilot / "attributions").glob("*.parquet"))
    pictures = [picture.stat().st_size for picture in (pilot / "heatmaps").glob("*.png")]
    writer = {name: item.default for name, item in inspect.signature(TableWriter).parameters.items()}
    share = ceil(pairs / ranks)
    parts = ceil(share / min(writer["rows"], max(1, int(rate * writer["seconds"]))))
    return {
        "pairs a second and rank": rate,
        "pairs a second": rate * ranks,
        "hours": share / rate / 3600,
        "bytes a row": size / done,
        "gigabytes of table": pairs * size / done / 1e9,
        "files of table": parts * ranks,
        "kilobytes a picture": sum(pictures) / len(pictures) / 1e3 if pictures else 0.0,
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pilot", type=Path, help="the run directory of a short run")
    parser.add_argument("--pairs", type=int, required=True)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--rate", type=float, help="pairs a second of one rank, in place of the pilot's")
    given = parser.parse_args()
    for name, value in plan(given.pilot, given.pairs, given.ranks, given.rate).items():
        print(f"{name:>24}  {value:,.0f}" if value >= 100 else f"{name:>24}  {value:.2f}")


if __name__ == "__main__":
    main()
