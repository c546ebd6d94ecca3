"""The run directory: its files, and its creation without overwriting another run."""

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
    """Paths of the files of one run.

    Args:
        path: path of the run directory.
        table_name: name of the folder of its table.
    """

    path: Path
    table_name: str = "attributions"

    @property
    def config(self) -> Path:
        """Path of ``config.yaml``, the resolved configuration."""
        return self.path / "config.yaml"

    @property
    def table(self) -> Path:
        """Folder of the table's Parquet parts."""
        return self.path / self.table_name

    @property
    def launches(self) -> Path:
        """Folder with one subfolder per launch."""
        return self.path / "launches"

    @property
    def heatmaps(self) -> Path:
        """Folder of the drawn pictures."""
        return self.path / "heatmaps"

    @property
    def thumbnails(self) -> Path:
        """Folder of the page's side files: thumbnails, and outlines of the ground truth."""
        return self.path / "report"

    @property
    def statistics(self) -> Path:
        """Path of the priors, if the run measured them."""
        return self.path / "statistics.safetensors"

    @property
    def states(self) -> Path:
        """Path of ``source.json``: sizes and times of change of the source's files at the last start."""
        return self.path / "source.json"

    @property
    def summary(self) -> Path:
        """Path of ``summary.json``: the counts, time and means of the run."""
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        """Path of the HTML page with overview and gallery."""
        return self.path / "report.html"

    def remove_if_empty(self) -> None:
        """Remove the directory if nothing was written to it, so that a failed start does not block its name."""
        for folder in (self.table, self.heatmaps, self.launches, self.path):
            with suppress(OSError):
                folder.rmdir()


def open_run_directory(
    output_dir: str | None, resume: bool = False, table_name: str = "attributions"
) -> tuple[RunDirectory, bool]:
    """Create or reopen a run directory; return it, and whether its run is resumed.

    Args:
        output_dir: path of the directory; None for ``runs/<date>-<time>``, to which ``runs/latest`` then links.
        resume: whether to resume the run in ``output_dir``; a new run starts if there is none.
        table_name: name of the folder of the run's table.

    Raises:
        M2IBError: if the directory holds a run and ``resume`` is false, or if it can't be created.
    """
    if resume and output_dir is None:
        raise M2IBError("resume=true needs output_dir: the run to resume (output_dir=runs/latest is the last one)")
    if resume and output_dir is not None and RunDirectory(Path(output_dir).expanduser()).config.exists():
        return RunDirectory(Path(output_dir).expanduser().resolve(), table_name), True
    return _create(output_dir, resume, table_name), False


def _create(output_dir: str | None, resume: bool, table_name: str) -> RunDirectory:
    try:
        path = Path(output_dir).expanduser() if output_dir is not None else _create_dated_folder(Path("runs"))
    except OSError as error:
        raise M2IBError(f"could not create a run directory in 'runs': {error}") from None
    run = RunDirectory(path, table_name)
    if resume and run.table.exists() and any(run.table.iterdir()):
        raise M2IBError(f"output_dir={str(path)!r} holds a table without config.yaml: it can't be resumed")
    if run.config.exists() or (run.table.exists() and not resume):
        raise M2IBError(
            f"output_dir={str(path)!r} holds a run already: resume it with resume=true, or choose another directory"
        )
    try:
        for folder in (run.table, run.heatmaps):
            folder.mkdir(parents=True, exist_ok=resume)  # a launch that was killed early may have left them
        if output_dir is None:
            _replace_link(path.parent / "latest", path.name)
    except OSError as error:
        raise M2IBError(f"could not create the run directory {str(path)!r}: {error}") from None
    return RunDirectory(path.resolve(), table_name)


def _create_dated_folder(parent: Path) -> Path:
    """Create ``<date>-<time>``, with a number if another run started in the same second."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for count in itertools.count(1):
        path = parent / (stamp if count == 1 else f"{stamp}-{count}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise AssertionError("unreachable")


def _replace_link(link: Path, target: str) -> None:
    """Replace the link atomically; a real file or folder of that name stays."""
    if link.is_symlink() or not link.exists():
        temporary = link.with_name(f".{link.name}-{target}")
        temporary.symlink_to(target)
        temporary.replace(link)


def heatmap_name(identity: str, key: str, suffix: str = ".png") -> str:
    """Return the file name of a pair's picture: ``<slug of id>-<8 hex of sha256(key)>`` and the suffix.

    The slug has no path separators, so no id can lead out of the run directory.

    >>> heatmap_name("../../etc/passwd", "pairs.csv:7")
    'etc-passwd-3ab8adb4.png'
    """
    slug = re.sub(r"[^A-Za-z0-9]+", "-", identity).strip("-")[:60].strip("-") or "pair"
    return f"{slug}-{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}{suffix}"
