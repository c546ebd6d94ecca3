"""``report.html``: all rows are in it, within its precision, and nothing in them becomes markup."""

from __future__ import annotations

import base64
import hashlib
import math
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from m2ib_lightning.run.counts import Counts
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.run.journal import Journal
from m2ib_lightning.run.pages import run_report, side_files
from m2ib_lightning.run.pages.quantised import quantised
from m2ib_lightning.run.pages.run_report import write_report
from m2ib_lightning.run.pages.side_files import save_thumbnail, thumbnail_name
from m2ib_lightning.run.resume import remove_rows
from m2ib_lightning.run.summary import summarise
from tests.run.pages import PageReader, decoded, explained_row, write_run


def page_of(run: RunDirectory, most: int | None = None, make: bool = False) -> PageReader:
    write_report(run, summarise(run, None), most=most, make=make)
    return PageReader(run.report)


@pytest.mark.parametrize("size", [1, 2, 49, 1000])
def test_a_value_is_off_by_at_most_half_a_step(size: int) -> None:
    values = np.random.default_rng(size).normal(3, 10, size).astype(np.float32)
    packed = quantised(values.tolist())
    assert packed is not None
    half = (float(values.max()) - float(values.min())) / 508
    assert np.abs(decoded(packed) - values).max() <= half + 1e-6 * np.abs(values).max()  # the ends have 7 digits
    assert packed[:2] == pytest.approx([values.min(), values.max()], rel=1e-6)


def test_values_that_are_not_known_stay_unknown() -> None:
    packed = quantised([1.0, None, math.nan, 1.0])
    assert packed is not None
    np.testing.assert_array_equal(decoded(packed), [1, np.nan, np.nan, 1])
    assert quantised(None) is None
    assert quantised([]) == [0.0, 0.0, ""]


def test_all_rows_are_on_the_page_in_the_order_of_the_source(tmp_path: Path) -> None:
    rows = [explained_row(index) for index in range(600)]
    run = write_run(tmp_path, rows[1::2])
    write_run(tmp_path, rows[::2], "part-0001-00001-000000.parquet")
    page = page_of(run)
    assert [row["key"] for row in page.rows] == [row["key"] for row in rows]
    for row, written in zip(page.rows, rows, strict=True):
        for packed, column in ((row["map"], "image_saliency"), (row["words"], "text_saliency")):
            values = np.array(written[column])
            assert np.abs(decoded(packed) - values).max() <= np.ptp(values) / 508 + 1e-5
        assert row["offsets"] == [*chain(*written["token_offsets"])]
        assert row["similarity"] == pytest.approx(written["similarity"], abs=1e-6)
    assert (page.head["pairs"], page.head["shown"]) == (600, 600)


def test_units_have_their_share_and_map(tmp_path: Path) -> None:
    maps = [np.random.default_rng(0).normal(size=16).tolist(), None]
    units: dict[str, Any] = {"unit_spans": [[0, 12], [20, 24]], "unit_saliency": maps, "unit_share": [0.25, None]}
    (row,) = page_of(write_run(tmp_path, [explained_row(0, **units)])).rows
    (first, second) = row["units"]
    assert first[:3] == [0, 12, 0.25]
    assert np.abs(decoded(first[3]) - maps[0]).max() <= np.ptp(maps[0]) / 508 + 1e-6
    assert second == [20, 24, None, None]


def test_nothing_of_the_data_becomes_markup(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><!--<b>"
    rows = [explained_row(0, caption=evil, id=evil, image=evil), {"key": evil, "id": "x", "error": f"bad: {evil}"}]
    run = write_run(tmp_path / "<b>run", rows)
    page = page_of(run)
    names = {name for name, _ in page.elements}
    assert names == {"html", "head", "meta", "title", "style", "body", "noscript", "script"} | {
        f"/{name}" for name in ("html", "head", "title", "style", "body", "noscript", "script")
    }
    assert {row["id"]: row.get("caption") for row in page.rows} == {evil: evil, "x": None}
    assert {row["error"] for row in page.rows if "error" in row} == {f"bad: {evil}"}
    assert len(page.scripts) == 3  # a block of rows, the head, the script of the page


def test_the_policy_allows_this_script_and_no_network(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path, [explained_row(0)]))
    (policy,) = [a["content"] or "" for name, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    digest = base64.b64encode(hashlib.sha256(page.scripts[-1][1].encode()).digest()).decode()
    assert directives["default-src"] == "'none'"
    assert directives["script-src"] == f"'sha256-{digest}'"
    assert "http" not in policy
    assert not [a for _, a in page.elements if a.get("src") or a.get("href")]


def test_failures_are_rows_and_are_counted_by_reason(tmp_path: Path) -> None:
    failed = [{"key": f"pairs.csv:{k}", "id": str(k), "error": "no such file"} for k in range(2, 5)]
    page = page_of(write_run(tmp_path, [explained_row(0), explained_row(1), *failed]))
    assert page.head["reasons"] == [["no such file", 3]]
    assert [row.get("error") for row in page.rows] == [None, None, *["no such file"] * 3]
    assert sum(page.head["histograms"]["similarity"]["counts"]) == 2
    assert page.head["curves"][0]["pairs"] == 2


def test_curves_are_means_over_the_pairs(tmp_path: Path) -> None:
    rows = [explained_row(index) for index in range(7)]
    head = page_of(write_run(tmp_path, rows)).head
    losses = np.array([row["image_loss"] for row in rows])
    assert head["curves"][0]["mean"] == pytest.approx(losses.mean(0), abs=1e-5)
    assert head["curves"][0]["deviation"] == pytest.approx(losses.std(0), abs=1e-5)
    maps = np.array([row["image_saliency"] for row in rows])
    assert head["ranges"]["map"] == pytest.approx([maps.min(), np.percentile(maps.max(1), 99), maps.max()], rel=1e-5)


def test_a_bound_on_the_pairs_is_stated(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path, [explained_row(index) for index in range(5)]), most=2)
    assert (page.head["pairs"], page.head["shown"], len(page.rows)) == (5, 2, 2)


def test_many_pairs_get_several_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_report, "_PAGE_PAIRS", 4)
    monkeypatch.setattr(run_report, "_BLOCK", 2)
    run = write_run(tmp_path, [explained_row(index) for index in range(9)])
    paths = write_report(run, summarise(run, None))
    assert [path.name for path in paths] == ["report.html", "report-2.html", "report-3.html"]
    pages = [PageReader(path) for path in paths]
    assert [len(page.rows) for page in pages] == [4, 4, 1]
    assert [page.head["page"] for page in pages] == [0, 1, 2]
    assert {row["key"] for page in pages for row in page.rows} == {f"pairs.csv:{index}" for index in range(9)}
    assert pages[0].head["pages"] == [["report.html", 4], ["report-2.html", 4], ["report-3.html", 1]]
    monkeypatch.setattr(run_report, "_PAGE_PAIRS", 100)
    write_report(run, summarise(run, None))
    assert [path.name for path in tmp_path.glob("report*.html")] == ["report.html"]


def test_the_rows_of_a_killed_process_are_on_the_page(tmp_path: Path) -> None:
    run = write_run(tmp_path, [explained_row(0)])
    journal = Journal(run.table / "part-0001-00001-000000.parquet")
    journal.append([explained_row(1)], Counts(done=1))
    assert [row["key"] for row in page_of(run).rows] == ["pairs.csv:0", "pairs.csv:1"]


def test_pictures_stand_in_the_page_up_to_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path, [explained_row(index) for index in range(3)])
    run.thumbnails.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    for index in range(2):
        save_thumbnail(Image.fromarray(noise), run.thumbnails / thumbnail_name(f"id-{index}", f"pairs.csv:{index}"))
    size = (run.thumbnails / thumbnail_name("id-0", "pairs.csv:0")).stat().st_size
    monkeypatch.setattr(side_files, "INLINE_BYTES", size + 10)
    page = page_of(run)
    first, second, third = page.rows
    assert first["thumb"].startswith("data:image/jpeg;base64,")
    assert (run.path / second["thumb"]).is_file()
    assert "thumb" not in third
    assert (page.head["thumbnails"], page.head["inline"]) == (2, 1)
    with Image.open(run.path / second["thumb"]) as picture:
        assert picture.size == (320, 240)


def test_missing_thumbnails_are_made_from_the_files_if_asked(tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    Image.new("RGB", (640, 320), "red").save(picture)
    rows = [explained_row(0, image=str(picture)), explained_row(1, image=str(tmp_path / "gone.png"))]
    run = write_run(tmp_path / "run", rows)
    assert page_of(run).head["thumbnails"] == 0
    page = page_of(run, make=True)
    assert [("thumb" in row) for row in page.rows] == [True, False]


def test_a_torn_line_of_the_truth_is_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path, [explained_row(0), explained_row(1)])
    run.thumbnails.mkdir()
    line = '{"key": "pairs.csv:0", "truth": [4, 2, 3, 5], "hit": true, "cut": 0.0}\n'
    (run.thumbnails / "truth-0001-00000.jsonl").write_text(line + '{"key": "pairs.csv:1", "tru')
    first, second = page_of(run).rows
    assert (first["truth"], first["hit"]) == ([4, 2, 3, 5], True)
    assert "truth" not in second


def test_changed_pairs_lose_their_thumbnail_and_truth(tmp_path: Path) -> None:
    run = write_run(tmp_path, [explained_row(0), explained_row(1)])
    run.thumbnails.mkdir()
    lines = []
    for index in range(2):
        path = run.thumbnails / thumbnail_name(f"id-{index}", f"pairs.csv:{index}")
        save_thumbnail(Image.new("RGB", (8, 8)), path)
        lines.append(f'{{"key": "pairs.csv:{index}", "truth": [1, 1, 0, 1], "hit": true, "cut": 0.0}}\n')
    (run.thumbnails / "truth-0001-00000.jsonl").write_text("".join(lines))
    remove_rows(run, ["pairs.csv:1"])
    write_run(tmp_path, [explained_row(1)], "part-0002-00000-000000.parquet")
    assert [("thumb" in row, "truth" in row) for row in page_of(run).rows] == [(True, True), (False, False)]
