"""The maps of other runs beside those of a run: matched by key, and refused where the pairs differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.run.pages.other_runs import OtherRuns
from m2ib_lightning.tasks.commands.report import main
from tests.run.pages import PageReader, decoded, explained_row, write_run


def method_run(folder: Path, method: str, indices: range, **values: Any) -> RunDirectory:
    rows = [explained_row(index, fingerprint=f"print {index}", **values) for index in indices]
    run = write_run(folder, rows)
    run.config.write_text(f"task: attribute\nmethod:\n  name: {method}\n")
    return run


def test_the_maps_of_other_runs_stand_beside(tmp_path: Path) -> None:
    other_map = np.random.default_rng(7).normal(size=9).tolist()
    changed = {"image_saliency": other_map, "grid_height": 3, "grid_width": 3, "image_loss": None, "text_loss": None}
    run = method_run(tmp_path / "one", "m2ib", range(4))
    method_run(tmp_path / "two", "gradcam", range(1, 9), **changed)
    (tmp_path / "two" / "report").mkdir()
    (tmp_path / "two" / "report" / "truth-0001-00000.jsonl").write_text('{"key": "pairs.csv:1", "hit": false}\n')
    method_run(tmp_path / "three", "m2ib", range(2), image_unit="log(1 + nats)^4")
    assert main([str(run.path), str(tmp_path / "two"), str(tmp_path / "three")]) == 0
    page = PageReader(run.report)
    names = [[panel["name"] for panel in row.get("panels", ())] for row in page.rows]
    assert names == [["m2ib (three)"], ["gradcam", "m2ib (three)"], ["gradcam"], ["gradcam"]]
    assert page.head["own"] == "m2ib (one)"
    gradcam, m2ib = page.rows[1]["panels"]
    assert np.abs(decoded(gradcam["map"]) - other_map).max() <= np.ptp(other_map) / 508 + 1e-5
    assert (gradcam["grid"], gradcam["hit"], "unit" in gradcam) == ([3, 3], False, False)
    assert (m2ib["unit"], m2ib["mapUnit"], "hit" in m2ib) == ("nats", "log(1 + nats)^4", False)
    lowest = min(row["panels"][0]["map"][0] for row in page.rows[2:])
    assert page.head["ranges"]["map of gradcam"][0] == pytest.approx(lowest)
    assert "map" in page.head["ranges"]


@pytest.mark.parametrize(
    ("values", "indices", "message"),
    [
        ({"caption": "another"}, range(2), "'pairs.csv:0' of .* is another one in .*: its caption differs"),
        ({"fingerprint": "x"}, range(2), "'pairs.csv:0' of .* is another one in .*: its picture differs"),
        ({}, range(5, 7), "explained none of the pairs of"),
    ],
)
def test_other_pairs_are_refused(values: dict[str, Any], indices: range, message: str, tmp_path: Path) -> None:
    run = method_run(tmp_path / "one", "m2ib", range(2))
    rows = [explained_row(index, **{"fingerprint": f"print {index}"} | values) for index in indices]
    other = write_run(tmp_path / "two", rows)
    with pytest.raises(M2IBError, match=message):
        OtherRuns(run, [other]).check()
    with pytest.raises(M2IBError, match=message):
        main([str(run.path), str(other.path)])
    assert not run.report.exists()


def test_the_report_of_a_search_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("task: tune\n")
    with pytest.raises(M2IBError, match="task=tune writes it at its end, and has not finished"):
        main([str(tmp_path)])
    (tmp_path / "report.html").write_text("the search")
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"page         {tmp_path / 'report.html'}\n"
    assert (tmp_path / "report.html").read_text() == "the search"
