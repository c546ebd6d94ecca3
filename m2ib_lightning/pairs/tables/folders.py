"""Image folders with a text file for each image: ``cat.txt`` next to ``cat.jpg``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from m2ib_lightning.errors import M2IBError, PairError
from m2ib_lightning.pairs.images import looks_like_an_image
from m2ib_lightning.pairs.tables.text_encoding import encoding_of


class FolderTable:
    """The images of a folder and its subfolders, sorted by name; captions are read on access.

    Args:
        folder: path of the folder.
        names: names of the text and the image column.
        metadata: names of the metadata files that could hold the captions, for the error message.
        encoding: value of ``data.encoding``, for the text files.

    Raises:
        M2IBError: if no image has a text file.
    """

    def __init__(
        self, folder: Path, names: tuple[str, str], metadata: tuple[str, ...], encoding: str | None = None
    ) -> None:
        self.name = folder.resolve().name
        self.folder = folder
        self.columns = list(names)
        self._encoding = encoding
        self._images = sorted(
            path
            for path in folder.rglob("*")
            if path.is_file() and looks_like_an_image(path.name) and not _is_hidden(path.relative_to(folder))
        )
        if not any(path.with_suffix(".txt").is_file() for path in self._images):
            raise M2IBError(
                f"data.path={str(folder)!r} has {len(self._images)} images and no captions: put {', '.join(metadata)} "
                "with the columns file_name and caption in it, or a text file next to each image (cat.txt next to "
                "cat.jpg)"
            )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self._images[index]
        text, picture = self.columns
        return {picture: image.relative_to(self.folder).as_posix(), text: self._caption(image.with_suffix(".txt"))}

    def list_lengths(self, column: str) -> None:
        """Return None: no cell is a list, because a text file holds one caption."""

    def _caption(self, file: Path) -> str | PairError:
        try:
            return encoding_of(file, self._encoding).decode(file.read_bytes()).strip()
        except FileNotFoundError:
            return PairError(f"the caption is missing: there is no file {file.name}")
        except PairError as error:
            return PairError(f"{file.name} {error}")
        except M2IBError as error:
            return PairError(str(error))
        except OSError as error:
            return PairError(f"{file.name} could not be read: {error}")


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
