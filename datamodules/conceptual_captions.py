"""Load Conceptual Captions as it is published: lines of a caption, a tab, and the URL of its picture."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from typing_extensions import override

from m2ib_lightning.config import Config
from m2ib_lightning.datamodules.base import loader_arguments, register_datamodule
from m2ib_lightning.datamodules.captions import CaptionsDataModule
from m2ib_lightning.errors import M2IBError, quoted
from m2ib_lightning.pairs.pair import PairSource, PairStream
from m2ib_lightning.pairs.prepare import Preparer
from m2ib_lightning.pairs.tables.cells import Columns
from m2ib_lightning.pairs.tables.lines import decode_record, read_line
from m2ib_lightning.pairs.tables.text_encoding import encoding_of

_FORM = "a .tsv file whose lines are a caption, a tab, and a URL, without a header"


class ConceptualCaptionsDataModule(CaptionsDataModule):
    """Loads the pairs of a file such as ``Validation_GCC-1.1.0-Validation.tsv``. The key is ``<file>:<line - 1>``."""

    source_name = "conceptual-captions"

    @override
    @classmethod
    def from_config(cls, config: Config, preparer: Preparer) -> Self:
        data = config.data
        if data.path is None:
            raise M2IBError(f"data.name=conceptual-captions needs data.path: {_FORM}")
        if not data.allow_urls:
            raise M2IBError(
                "data.name=conceptual-captions has its pictures at URLs: data.allow_urls=true downloads them "
                "(data.url_cache=FOLDER keeps them)"
            )
        return cls(
            preparer,
            data.path,
            columns=Columns(),
            encoding=data.encoding,
            open_timeout=data.open_timeout,
            **loader_arguments(config),
        )

    @override
    def _open(self) -> PairSource | PairStream:
        path = Path(self.path).expanduser()
        if path.suffix.lower() != ".tsv" or not path.is_file():
            raise M2IBError(f"data.name=conceptual-captions needs data.path: {_FORM}; got {self.path!r}")
        codec = encoding_of(path, self.encoding)
        with path.open("rb") as lines:
            first = decode_record(read_line(lines, codec)[0], codec)
        cells = first.rstrip("\r\n").split("\t")
        if len(cells) == 2 and "://" in cells[0] and "://" not in cells[1]:
            raise M2IBError(
                f"data.path={self.path!r} has the URL first, as Conceptual 12M has: put the line image<TAB>caption at "
                "the top, and read it with data.name=captions"
            )
        if len(cells) != 2 or "://" not in cells[1]:
            raise M2IBError(f"data.path={self.path!r} must be {_FORM}; its first line is {quoted(first)}")
        return super()._open()


register_datamodule("conceptual-captions", ConceptualCaptionsDataModule)
