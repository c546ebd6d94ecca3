"""The run directory: where it is, what is in it, and that no run writes over another."""

from __future__ import annotations

import hashlib
import itertools
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from m2ib_lightning.errors import M2IBError


@dataclass(frozen=True)
class RunDirectory:
    """The files of one run, by name.

    Args:
        path: of the directory.
        rows: the name of the folder that its table is in.
    """

    path: Path
    rows: str = "attributions"

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def table(self) -> Path:
        """The folder of Parquet parts."""
        return self.path / self.rows

    @property
    def launches(self) -> Path:
        """A folder for each start of the run."""
        return self.path / "launches"

    @property
    def heatmaps(self) -> Path:
        """The folder of PNG files."""
        return self.path / "heatmaps"

    @property
    def statistics(self) -> Path:
        """The priors that the run measured, if it did."""
        return self.path / "statistics.safetensors"

    @property
    def summary(self) -> Path:
        """Counts, time and means."""
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        """A page to look at."""
        return self.path / "report.html"

    def discard(self) -> None:
        """Take the directory away again while there is nothing in it: a run that did not begin burns no name."""
        for folder in (self.table, self.heatmaps, self.launches, self.path):
            with suppress(OSError):
                folder.rmdir()


def open_run_directory(
    output_dir: str | None, resume: bool = False, rows: str = "attributions"
) -> tuple[RunDirectory, bool]:
    """The directory to write to, and whether it holds a run that is to be continued.

    Args:
        output_dir: where; None for ``runs/<date>-<time>``, with ``runs/latest`` pointing at it.
        resume: whether to continue the run that is there; where none is, one begins.
        rows: the name of its table's folder.

    Raises:
        M2IBError: if it holds a run and ``resume`` is false, or can't be made.
    """
    if resume and output_dir is None:
        raise M2IBError("resume=true needs output_dir: the run to continue (output_dir=runs/latest is the last one)")
    if resume and output_dir is not None and RunDirectory(Path(output_dir).expanduser()).config.exists():
        return RunDirectory(Path(output_dir).expanduser().resolve(), rows), True
    return _create(output_dir, resume, rows), False


def _create(output_dir: str | None, resume: bool, rows: str) -> RunDirectory:
    try:
        path = Path(output_dir).expanduser() if output_dir is not None else _fresh(Path("runs"))
    except OSError as error:
        raise M2IBError(f"could not make a run directory in 'runs': {error}") from None
    run = RunDirectory(path, rows)
    if resume and run.table.exists() and any(run.table.iterdir()):
        raise M2IBError(f"output_dir={str(path)!r} holds a table without config.yaml: it can't be resumed")
    if run.config.exists() or (run.table.exists() and not resume):
        raise M2IBError(
            f"output_dir={str(path)!r} holds a run already: continue it with resume=true, or choose another directory"
        )
    try:
        for folder in (run.table, run.heatmaps):
            folder.mkdir(parents=True, exist_ok=resume)  # a start that was killed early may have left them
        if output_dir is None:
            _point_at(path.parent / "latest", path.name)
    except OSError as error:
        raise M2IBError(f"could not make the run directory {str(path)!r}: {error}") from None
    return RunDirectory(path.resolve(), rows)


def _fresh(parent: Path) -> Path:
    """Make ``<date>-<time>``, with a number where another run began in the same second."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for count in itertools.count(1):
        path = parent / (stamp if count == 1 else f"{stamp}-{count}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise AssertionError("unreachable")


def _point_at(link: Path, target: str) -> None:
    """Replace the link in one step; a real file or folder of that name is left alone."""
    if link.is_symlink() or not link.exists():
        temporary = link.with_name(f".{link.name}-{target}")
        temporary.symlink_to(target)
        temporary.replace(link)


def heatmap_name(identity: str, key: str) -> str:
    """``<slug of id>-<8 hex of sha256(key)>.png``: no path in an id can leave the run directory.

    >>> heatmap_name("../../etc/passwd", "pairs.csv:7")
    'etc-passwd-3ab8adb4.png'
    """
    slug = re.sub(r"[^A-Za-z0-9]+", "-", identity).strip("-")[:60].strip("-") or "pair"
    return f"{slug}-{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}.png"
