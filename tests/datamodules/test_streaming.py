"""Streams end to end: shards split over ranks and processes, resumed runs, and images at URLs."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from m2ib_lightning import CaptionsDataModule, M2IBError, load_attributions, load_model
from m2ib_lightning.cli import main
from m2ib_lightning.datamodules.stream_loading import StreamDataset, shares
from m2ib_lightning.pairs.pair import Pair, PreparedPair, RawPair
from m2ib_lightning.run.differences import differences
from m2ib_lightning.run.done_rows import DoneRows
from tests.folders import save_clip_folder
from tests.run.test_sharding import finish, start

FAST = ["bottleneck.steps=2", "bottleneck.noise_samples=2", "trainer.enable_progress_bar=false", "data.name=captions"]
FAST += ["data.num_workers=0", "output.heatmaps=0", "output.tensorboard_images=0"]  # unless a test overrides them
CAPTIONS = ["a red circle", "a star", "the small blue ring", "a green square and a star"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip_folder(tmp_path_factory.mktemp("clip"))


def png(seed: int, size: int = 40) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def caption(number: int) -> str:
    return CAPTIONS[number % len(CAPTIONS)]


def write_tars(folder: Path, shards: int, rows: int) -> Path:
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as archive:
            for row in range(rows):
                number = shard * rows + row
                for ending, content in (("png", png(number)), ("txt", caption(number).encode())):
                    header = tarfile.TarInfo(f"{number:08d}.{ending}")
                    header.size = len(content)
                    archive.addfile(header, io.BytesIO(content))
    return folder / "*.tar"


def write_parquet(folder: Path, shards: int, rows: int) -> Path:
    for shard in range(shards):
        numbers = range(shard * rows, (shard + 1) * rows)
        cells = {"image": [{"bytes": png(k), "path": None} for k in numbers], "caption": [caption(k) for k in numbers]}
        pq.write_table(pa.table(cells), folder / f"{shard:05d}.parquet", row_group_size=4)
    return folder


def words(folder: Path, path: Path, run: Path, *more: str) -> list[str]:
    return [f"model.name={folder}", f"data.path={path}", f"output_dir={run}", *FAST, *more]


@pytest.mark.slow
@pytest.mark.parametrize(("shards", "rows"), [(4, 3), (1, 20)], ids=["many shards", "one shard"])
def test_ranks_and_processes_read_each_pair_once(folder: Path, tmp_path: Path, shards: int, rows: int) -> None:
    path = write_tars(tmp_path, shards, rows)
    one, three = tmp_path / "one", tmp_path / "three"
    assert main(words(folder, path, one, "output.heatmaps=3")) == 0
    assert load_attributions(one)["key"] == [f"{s:05d}.tar:{row}" for s in range(shards) for row in range(rows)]
    assert load_attributions(one)["error"] == [None] * (shards * rows)
    more = ["data.num_workers=2", f"trainer.devices={2 if shards > 1 else 3}", "trainer.accelerator=cpu"]
    printed, _ = finish(start(words(folder, path, three, *more, "output.heatmaps=3")))
    assert differences(three, one) == []
    assert f"the pairs of {shards} shard" in printed
    assert len(list((three / "heatmaps").iterdir())) == 3


def test_parquet_shards_and_the_table_give_the_same_maps(folder: Path, tmp_path: Path) -> None:
    path = write_parquet(tmp_path, 3, 3)
    stream, table = tmp_path / "stream", tmp_path / "table"
    assert main(words(folder, path, stream, "data.streaming=true")) == 0
    assert main(words(folder, path / "00001.parquet", table)) == 0
    rows = {row["key"]: row for row in load_attributions(stream).to_list()}
    assert len(rows) == 9
    for row in load_attributions(table).to_list():
        for name in ("image_saliency", "text_saliency"):
            np.testing.assert_allclose(row[name], rows[row["key"]][name], rtol=1e-4)


def test_a_stream_is_resumed(folder: Path, tmp_path: Path) -> None:
    path = write_tars(tmp_path, 3, 4)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(words(folder, path, whole)) == 0
    assert main(words(folder, path, broken, "data.limit=6", "data.num_workers=2")) == 0
    assert load_attributions(broken)["key"] == load_attributions(whole)["key"][:6]
    for part in (broken / "attributions").iterdir():  # a third of the rows is lost
        table = pq.read_table(part)
        pq.write_table(table.filter([row % 3 != 1 for row in range(table.num_rows)]), part)
    assert main(words(folder, path, broken, "resume=true", "data.num_workers=2")) == 0
    assert differences(broken, whole) == []
    assert json.loads((broken / "summary.json").read_text())["pairs_skipped"] is None


@pytest.mark.slow
def test_failed_rows_beyond_the_limit_stay(folder: Path, tmp_path: Path) -> None:
    pictures = [b"no picture" if row in (1, 5) else png(row) for row in range(7)]
    cells = {"image": [{"bytes": picture, "path": None} for picture in pictures], "caption": ["a star"] * 7}
    pq.write_table(pa.table(cells), tmp_path / "a.parquet")
    run = tmp_path / "run"
    again = words(folder, tmp_path / "a.parquet", run, "data.streaming=true")
    assert main(again) == 0
    assert main([*again, "resume=true", "retry_failed=true", "data.limit=3"]) == 0
    table = load_attributions(run)
    assert table["key"] == [f"a.parquet:{row}" for row in range(7)]
    assert [row for row, error in enumerate(table["error"]) if error is not None] == [1, 5]
    tried = pq.read_table(run / "attributions" / "part-0002-00000-000000.parquet")
    assert tried["key"].to_pylist() == ["a.parquet:1"]


def test_a_truncated_shard_is_one_failed_row_and_the_others_are_read(folder: Path, tmp_path: Path) -> None:
    path = write_tars(tmp_path, 2, 4)
    first = tmp_path / "00000.tar"
    first.write_bytes(first.read_bytes()[:17000])
    assert main(words(folder, path, tmp_path / "run")) == 0
    rows = load_attributions(tmp_path / "run").to_list()
    broken = [row for row in rows if row["error"]]
    assert len(broken) == 1
    assert "the rest of shard 00000.tar, from row" in broken[0]["error"]
    assert len([row for row in rows if row["key"].startswith("00001")]) == 4


@pytest.mark.slow
def test_lists_of_captions_in_a_stream(folder: Path, tmp_path: Path) -> None:
    cells = {
        "image": [{"bytes": png(k), "path": None} for k in range(3)],
        "caption": [["a star", "a ring"], [], ["a star"]],
    }
    pq.write_table(pa.table(cells), tmp_path / "lists.parquet")
    run = tmp_path / "run"
    assert main(words(folder, tmp_path / "lists.parquet", run, "data.streaming=true", "data.limit=2")) == 0
    assert main(words(folder, tmp_path / "lists.parquet", run, "data.streaming=true", "resume=true")) == 0
    assert load_attributions(run)["key"] == [f"lists.parquet:{k}" for k in ("0.0", "0.1", "1", "2.0")]
    assert main(words(folder, tmp_path / "lists.parquet", tmp_path / "table")) == 0
    assert differences(run, tmp_path / "table") == []


def test_a_missing_column_of_shards(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_tars(tmp_path, 1, 1)
    assert main(words(folder, path, tmp_path / "run", "data.text_column=text")) == 0  # an alias of .txt
    assert main(words(folder, path, tmp_path / "no", "data.id_column=uid")) == 2
    assert "has no column 'uid' (data.id_column): it has " in capsys.readouterr().err


@pytest.mark.slow
def test_a_prior_measured_on_a_stream(folder: Path, tmp_path: Path) -> None:
    path = write_tars(tmp_path, 2, 4)
    more = ["bottleneck.image.prior=data", "bottleneck.calibration_pairs=6"]
    assert main(words(folder, path, tmp_path / "a", *more)) == 0
    assert main(words(folder, path, tmp_path / "b", *more, "data.num_workers=2", "data.batch_size=3")) == 0
    assert differences(tmp_path / "a", tmp_path / "b", 1e-4) == []


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 10])
@pytest.mark.parametrize("readers", [1, 2, 3, 4, 12])
def test_every_row_has_one_reader(shards: int, readers: int) -> None:
    seen = [
        (shard, row)
        for reader in range(readers)
        for shard, member, members in shares(shards, reader, readers)
        for row in range(25)
        if row % members == member
    ]
    assert sorted(seen) == [(shard, row) for shard in range(shards) for row in range(25)]


class Numbers:
    """A stream of text."""

    names: Sequence[str] = ("a", "b")

    def rows(self, shard: int) -> Iterator[list[RawPair]]:
        for row in range(6):
            key = f"{self.names[shard]}:{row}"
            yield [RawPair(key, None, "", caption=key, error="nothing to see")]


def test_finished_pairs_are_skipped() -> None:
    done = DoneRows(None, ["a"])
    done._codes["a"].extend([0, 3 << 20])
    dataset = StreamDataset(Numbers(), load_model("scenes").preparer, done=done)
    keys = [item.key for item in dataset if isinstance(item, Pair)]
    assert keys == [f"a:{k}" for k in (1, 2, 4, 5)] + [f"b:{k}" for k in range(6)]


def test_a_dead_worker_ends_a_stream_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import signal

    from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter as Loader

    class Deadly(Numbers):
        def rows(self, shard: int) -> Iterator[list[RawPair]]:
            os.kill(os.getpid(), signal.SIGKILL)
            return super().rows(shard)

    class Source(CaptionsDataModule):
        def open_source(self) -> Any:
            return Deadly()

    monkeypatch.setattr(Loader._try_get_data, "__defaults__", (0.2,))  # seconds until it looks for dead workers
    pairs = Source(load_model("scenes").preparer, "x", num_workers=1)
    with pytest.raises(M2IBError, match="a process that reads the stream died"):
        list(pairs.train_dataloader())


class Server(BaseHTTPRequestHandler):
    """Serves pictures at ``/<number>.png``, 404 at ``/gone.png``, elsewhere a page until ``mended``, then a picture."""

    requests: ClassVar[dict[str, int]] = {}
    mended: ClassVar[bool] = False

    def do_GET(self) -> None:
        self.requests[self.path] = self.requests.get(self.path, 0) + 1
        name = self.path.strip("/").removesuffix(".png")
        body = png(int(name)) if name.isdigit() else png(7) if self.mended else b"<html>no picture</html>"
        self.send_response(404 if name == "gone" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Server.requests, Server.mended = {}, False
    running = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()


@pytest.mark.slow
def test_images_at_urls(folder: Path, server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    urls = [f"{server}/{name}.png" for name in ("0", "gone", "1", "2", "garbage")]
    (tmp_path / "pairs.tsv").write_text("".join(f"{caption(k)}\t{url}\n" for k, url in enumerate(urls)))
    path, cache = tmp_path / "pairs.tsv", tmp_path / "cache"
    assert main(words(folder, path, tmp_path / "no")) == 1
    assert not Server.requests
    assert "only downloaded with data.allow_urls=true" in load_attributions(tmp_path / "no")["error"][0]

    assert main(words(folder, path, tmp_path / "private", "data.allow_urls=true")) == 1
    assert not Server.requests
    assert "data.allow_private_urls" in load_attributions(tmp_path / "private")["error"][0]

    allowed = ["data.allow_urls=true", "data.allow_private_urls=true", f"data.url_cache={cache}"]
    assert main(words(folder, path, tmp_path / "run", *allowed)) == 0
    rows = load_attributions(tmp_path / "run").to_list()
    assert [row["error"] is None for row in rows] == [True, False, True, True, False]
    assert "404" in rows[1]["error"]
    assert "could not be read as an image of a known format" in rows[4]["error"]
    assert [row["image"] for row in rows] == urls
    assert set(Server.requests.values()) == {1}
    assert len([file for file in cache.rglob("*") if file.is_file()]) == 3

    bad = cache / hashlib.sha256(urls[4].encode()).hexdigest()[:2] / hashlib.sha256(urls[4].encode()).hexdigest()
    bad.parent.mkdir(exist_ok=True)
    bad.write_bytes(b"<html>no picture</html>")  # as an earlier version cached it
    Server.mended = True
    again = [*allowed, "resume=true", "retry_failed=true"]
    assert main(words(folder, path, tmp_path / "run", *again)) == 0
    assert [row["error"] is None for row in load_attributions(tmp_path / "run")] == [True, False, True, True, True]
    assert sorted(Server.requests.values()) == [1, 1, 1, 2, 2]

    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(png(max(0, number - 1) if number > 1 else number))
    files = "".join(f"{caption(k)}\t{name}.png\n" for k, name in ((0, 0), (2, 2), (3, 3)))
    (tmp_path / "files.tsv").write_text(files)
    assert main(words(folder, tmp_path / "files.tsv", tmp_path / "files")) == 0
    local = load_attributions(tmp_path / "files").to_list()
    for a, b in zip(local, [rows[0], rows[2], rows[3]], strict=True):
        np.testing.assert_allclose(a["image_saliency"], b["image_saliency"], rtol=1e-4)


def test_a_batch_of_urls_is_downloaded_side_by_side() -> None:
    from m2ib_lightning.pairs.urls.url_settings import UrlSettings

    together = threading.Barrier(4, timeout=20)

    class Together(Server):
        def do_GET(self) -> None:
            together.wait()  # no request is answered before all have arrived
            super().do_GET()

    running = ThreadingHTTPServer(("127.0.0.1", 0), Together)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    preparer = load_model("scenes").preparer.with_options(fit=None, urls=UrlSettings(allow=True, allow_private=True))
    raws = [RawPair(str(k), f"http://127.0.0.1:{running.server_port}/{k}.png", "", "a star") for k in range(4)]
    prepared = [preparer.prepare(raw, keep_picture=False) for raw in preparer.download(raws)]
    running.shutdown()
    assert all(isinstance(item, PreparedPair) for item in prepared)
