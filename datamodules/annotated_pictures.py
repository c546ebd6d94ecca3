"""The base class of the data modules that read annotation files."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from typing_extensions import override

from m2ib_lightning.config import Config
from m2ib_lightning.datamodules.base import PairDataModule, loader_arguments
from m2ib_lightning.datamodules.opening import check_open_timeout, open_in_time
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.pairs.annotations.annotated import AnnotatedSource
from m2ib_lightning.pairs.prepare import Preparer


@dataclass(frozen=True)
class AnnotationOptions:
    """Options of the sources of annotated pictures; each source says which of them it reads.

    Attributes:
        image_root: folder of the pictures; None to look in the usual places.
        split: split to read; None for all.
        instances: COCO file of the objects; None to look beside the annotations.
        one_caption: whether only the first caption of each picture is read.
        text_field: name of the field with the caption.
        image_field: name of the field with the picture.
    """

    image_root: Path | None = None
    split: str | None = None
    instances: Path | None = None
    one_caption: bool = False
    text_field: str = "caption"
    image_field: str = "image"


class AnnotatedDataModule(PairDataModule):
    """Loads the pairs of annotation files. A subclass overrides ``open_annotations``, ``source_name`` and ``needs``.

    Args:
        preparer: the preparer of the model that reads the pairs.
        path: the annotation file or folder.
        annotations: options of the source.
        open_timeout: seconds that opening the source may take.
        options: arguments of ``PairDataModule``.

    Raises:
        M2IBError: if the folder of the pictures does not exist, or an option is wrong.
    """

    source_name: ClassVar[str]
    """Name of the data source."""

    needs: ClassVar[str]
    """What ``data.path`` must be."""

    reads: ClassVar[tuple[str, ...]] = ()
    """Options that the source reads besides ``image_root``: ``split``, ``instances``, ``one_caption``."""

    def __init__(
        self,
        preparer: Preparer,
        path: str | Path,
        *,
        annotations: AnnotationOptions | None = None,
        open_timeout: float = 600.0,
        **options: Any,
    ) -> None:
        super().__init__(preparer, **options)
        check_open_timeout(open_timeout)
        self.path = Path(path).expanduser()
        self.annotations = annotations or AnnotationOptions()
        self.open_timeout = open_timeout

    @override
    @classmethod
    def from_config(cls, config: Config, preparer: Preparer) -> Self:
        data = config.data
        if data.path is None:
            raise M2IBError(f"data.name={cls.source_name} needs data.path: {cls.needs}")
        if data.streaming:
            raise M2IBError(
                f"data.name={cls.source_name} is read by position, not as a stream: set data.streaming=false"
            )
        for option in ("split", "instances", "one_caption", "encoding"):
            value = getattr(data, option)
            if value and option not in cls.reads:
                raise M2IBError(f"data.name={cls.source_name} does not use data.{option}={value}: leave it out")
        return cls(
            preparer,
            data.path,
            annotations=AnnotationOptions(
                None if data.image_root is None else Path(data.image_root).expanduser(),
                data.split,
                None if data.instances is None else Path(data.instances).expanduser(),
                data.one_caption,
                data.text_column,
                data.image_column,
            ),
            open_timeout=data.open_timeout,
            **loader_arguments(config),
        )

    @override
    def open_source(self) -> AnnotatedSource:
        root = self.annotations.image_root
        if root is not None and not root.is_dir():
            raise M2IBError(f"data.image_root={str(root)!r} is not a folder")
        return open_in_time(self.source_name, str(self.path), self.open_timeout, self._open)

    def _open(self) -> AnnotatedSource:
        if not self.path.exists():
            raise M2IBError(
                f"data.path={str(self.path)!r} does not exist: data.name={self.source_name} needs {self.needs}"
            )
        source = self.open_annotations(self.path.resolve(), self.annotations)  # the working directory may change
        if len(source) == 0:
            raise M2IBError(f"data.path={str(self.path)!r} has no captions that data.name={self.source_name} reads")
        return source

    @abstractmethod
    def open_annotations(self, path: Path, options: AnnotationOptions) -> AnnotatedSource:
        """Open the annotations; this is called once, within the time limit.

        Raises:
            M2IBError: if they can't be opened, or have another layout.
        """


def chosen_split(name: str, split: str | None, available: set[str]) -> str | None:
    """Return the split to read, which must exist.

    Args:
        name: name of the file.
        split: split to read; None for all.
        available: names of the splits in the file.

    Raises:
        M2IBError: if the split does not exist.
    """
    if split is not None and split not in available:
        exists = f"it has {', '.join(sorted(available))}" if available else "it has no splits"
        raise M2IBError(f"{name} has no split {split!r} (data.split): {exists}")
    return split


def first_folder(*folders: Path) -> Path:
    """Return the first folder that exists, or the last one."""
    return next((folder for folder in folders if folder.is_dir()), folders[-1])
