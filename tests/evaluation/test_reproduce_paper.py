"""The script that reproduces the paper, on small tables in the formats of its two data sets."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from tests import ROOT
from tests.folders import save_clip_folder, save_photograph

SCRIPT = ROOT / "scripts" / "experiments" / "reproduce_paper.py"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("reproduce_paper", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_ms_cxr(folder: Path) -> Path:
    for name in ("a", "b"):
        save_photograph(folder / f"{name}.png", 64, 48)
    table = folder / "ms_cxr.csv"
    table.write_text(
        "dicom_id,category_name,label_text,path,x,y,w,h,image_width,image_height,split\n"
        "1,Edema,a red circle,a.png,0,0,10,10,64,48,test\n"
        "1,Edema,a red circle,a.png,20,20,10,10,64,48,test\n"
        "1,Edema,a blue star,a.png,5,5,10,10,64,48,test\n"
        "2,Edema,a red circle,b.png,0,0,64,48,64,48,test\n"
    )
    return table


def test_ms_cxr_boxes_are_gathered_by_image_and_phrase(script: Any, tmp_path: Path) -> None:
    rows = list(script.ms_cxr(write_ms_cxr(tmp_path)))
    assert [len(row["boxes"]) for row in rows] == [2, 1, 1]
    assert rows[0] == {"image": "a.png", "caption": "a red circle", "boxes": [[0, 0, 10, 10], [20, 20, 10, 10]]}


@pytest.mark.slow
def test_the_script_runs_with_the_papers_settings(script: Any, tmp_path: Path) -> None:
    table = write_ms_cxr(tmp_path)
    save_clip_folder(tmp_path / "model")
    out = tmp_path / "run"
    small = ["bottleneck.image.layer=1", "bottleneck.text.layer=0", "bottleneck.steps=2", "data.num_workers=0"]
    keys = [*small, "evaluate.methods=[m2ib, saliency]", "trainer.enable_progress_bar=false"]
    words = ["ms-cxr", str(table), "--images", str(tmp_path), "--model", str(tmp_path / "model"), "--out", str(out)]
    assert script.main([*words, "--", *keys]) == 0
    config = OmegaConf.load(out / "config.yaml")
    assert config.bottleneck.image.beta == config.bottleneck.text.beta == 1.0
    assert config.bottleneck.image.granularity == "element"
    methods = json.loads((out / "summary.json").read_text())["methods"]
    assert methods["m2ib"]["image_mass"]["pairs"] == 3
    assert methods["m2ib"]["reference_text_drop"]["pairs"] == 3


def test_conceptual_captions_is_sampled_the_same_way_twice(script: Any, tmp_path: Path) -> None:
    table = tmp_path / "cc.tsv"
    table.write_text("".join(f'caption "{k}\thttp://example.org/{k}.jpg\n' for k in range(50)))
    rows = list(script.conceptual_captions(table))
    assert rows[0] == {"image": "http://example.org/0.jpg", "caption": 'caption "0'}  # there is no header line
    one, two, other = (script.sample(rows, 10, seed) for seed in (0, 0, 1))
    assert one == two != other
    assert len(one) == 10
    assert one == sorted(one, key=rows.index)


def test_a_table_of_another_format_is_refused(script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "table.csv"
    table.write_text("image,caption\na.png,text\n")
    assert script.main(["ms-cxr", str(table), "--out", str(tmp_path / "run")]) == 2
    assert "has no column 'path': it has image, caption" in capsys.readouterr().err
    assert script.main(["conceptual-captions", str(table), "--out", str(tmp_path / "run")]) == 2
    assert "table.csv:1: expected a caption and a URL, got 1 cells" in capsys.readouterr().err
