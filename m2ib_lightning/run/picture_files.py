"""Finds the files of a run's pictures. The table has them as the source named them, often as relative paths."""

from __future__ import annotations

from pathlib import Path

from m2ib_lightning.files import read_yaml
from m2ib_lightning.run.directory import RunDirectory


class PictureFiles:
    """Finder of the files of a run's pictures.

    Relative paths start at ``image_root``. Without it they start at the run's ``data.image_root``, at the folder of its
    ``data.path``, or at the working directory: where there is such a file first.

    Args:
        run: the run directory.
        image_root: folder of relative paths, or None.
    """

    def __init__(self, run: str | Path, image_root: str | Path | None = None) -> None:
        roots = _roots(Path(run).expanduser()) if image_root is None else [Path(image_root).expanduser()]
        self._roots = [root.absolute() for root in roots]

    def __call__(self, image: str | None) -> Path | None:
        """Return the absolute path of a picture; None if it has no file here: a URL, or inside an archive."""
        if not image or "://" in image or "\0" in image:
            return None
        return next((root / image for root in self._roots if _is_file(root / image)), None)


def _roots(run: Path) -> list[Path]:
    config = RunDirectory(run).config
    data = read_yaml(config).get("data") if config.is_file() else None
    roots = []
    if isinstance(data, dict):
        if isinstance(data.get("image_root"), str):
            roots.append(Path(data["image_root"]).expanduser())
        if isinstance(data.get("path"), str):
            path = Path(data["path"]).expanduser()
            roots.append(path if path.is_dir() else path.parent)
    return [*roots, Path()]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long
        return False
