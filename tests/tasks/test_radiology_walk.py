"""The walk of docs/radiology.md runs as it stands, on made-up files in the layout of MS-CXR."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from m2ib_lightning import load_attributions
from m2ib_lightning.cli import main, parse
from m2ib_lightning.config import Config
from m2ib_lightning.evaluation import load_scores
from tests import ROOT
from tests.folders import save_photograph
from tests.openai_clip import OpenAIClip, save_vocabulary

PAGE = (ROOT / "docs" / "radiology.md").read_text()
WALK = PAGE[PAGE.index("## MS-CXR") :]
NAME = "MS_CXR_Local_Alignment_v1.1.0"
SIZE = (2544, 3056)
"""Size of the original pictures; those of the fixture have 53 x 64 pixels, a 48th."""

HEADER = ["dicom_id", "category_name", "label_text", "path", "x", "y", "w", "h", "image_width", "image_height", "split"]
BOXES: list[tuple[str, str, str, list[float], str]] = [
    ("02aa804e-bde0afdd", "Pneumonia", "patchy opacity, left base", [1440, 1440, 480, 480], "test"),
    ("02aa804e-bde0afdd", "Pneumonia", "patchy opacity, left base", [480, 1440, 480, 480.5], "test"),
    ("02aa804e-bde0afdd", "Edema", "mild edema", [0, 0, 2544, 3056], "test"),
    ("174413ec-4ec4c1f7", "Pleural Effusion", "small effusion", [960, 0, 480, 240], "test"),
    ("68b5c4b1-227d0485", "Atelectasis", "atelectasis", [0, 0, 48, 48], "train"),
]
CATEGORIES = ["Atelectasis", "Edema", "Pleural Effusion", "Pneumonia"]


def path_of(dicom: str) -> str:
    return f"files/p10/p10000032/s50414267/{dicom}.jpg"


def commands() -> list[list[str]]:
    """The words of each command of the walk."""
    code = "".join(re.findall(r"```bash\n(.*?)```", WALK, flags=re.DOTALL)).replace("\\\n", " ")
    words = [shlex.split(line) for line in code.splitlines()]
    assert all(line.pop(0) == "m2ib-fit" for line in words)
    return words


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files that the walk names."""
    monkeypatch.chdir(tmp_path)
    with open(f"{NAME}.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(HEADER)
        for dicom, category, text, box, split in BOXES:
            table.writerow([dicom, category, text, path_of(dicom), *box, *SIZE, split])
    Path(f"{NAME}.json").write_text(json.dumps(in_coco_layout()))
    for dicom in dict.fromkeys(box[0] for box in BOXES):
        picture = tmp_path / "mimic-cxr-jpg" / path_of(dicom)
        picture.parent.mkdir(parents=True, exist_ok=True)
        save_photograph(picture, 53, 64)
    model = OpenAIClip(layers=12, text_layers=12, patch=8, width=64, text_width=64)
    torch.save({"state_dict": model.state_dict()}, "clip-imp-pretrained_128_6_after_4.pt")
    save_vocabulary(tmp_path)
    return tmp_path


def in_coco_layout() -> dict[str, Any]:
    splits = {dicom: split for dicom, _, _, _, split in BOXES}
    sides = {"width": SIZE[0], "height": SIZE[1]}
    images = [
        {"id": k, "file_name": f"{dicom}.jpg", "path": path_of(dicom), "num_annotations": 1, "split": split} | sides
        for k, (dicom, split) in enumerate(splits.items())
    ]
    annotations = [
        {"id": 10 + k, "image_id": list(splits).index(dicom), "category_id": 1 + CATEGORIES.index(category)}
        | {"label_text": text, "bbox": box, "iscrowd": 0, "area": box[2] * box[3], "segmentation": []}
        | sides
        for k, (dicom, category, text, box, _) in enumerate(BOXES)
    ]
    categories = [{"id": 1 + k, "name": name, "supercategory": "disease"} for k, name in enumerate(CATEGORIES)]
    head = {"info": {"description": "MS-CXR", "version": "1.1.0"}, "licenses": []}
    return head | {"categories": categories, "images": images, "annotations": annotations}


def test_the_commands_have_the_settings_of_the_notebook() -> None:
    fits = [words for words in commands() if words[0] != "maps-to-masks"]
    assert len(fits) == 3
    for words in fits:
        config = parse(words)
        assert isinstance(config, Config)
        image, text = config.bottleneck.image, config.bottleneck.text
        assert (image.layer, text.layer, image.beta, text.beta, image.sigma, text.sigma) == (9, 7, 1, 1, 1, 1)
        assert (image.prior, image.granularity, config.bottleneck.preset) == ("unit", "element", "published")
        assert (config.bottleneck.steps, config.bottleneck.noise_samples) == (10, 10)


@pytest.mark.slow
def test_the_walk_runs(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in commands():
        assert main(words) == 0
    printed = capsys.readouterr().out
    # the model sees rows 5 to 58 of 64: of the whole film a part, and nothing of the effusion in rows 0 to 5
    assert "3 pairs with boxes or masks: the crop cuts away a part of them in 1, and all of them in 1" in printed
    assert "3 masks" in printed
    for name, keys in (("maps", (0, 2, 3)), ("maps-json", (10, 12, 13))):
        rows = load_attributions(desk / name).to_list()
        ending = "csv" if name == "maps" else "json"
        assert [row["key"] for row in rows] == [f"{NAME}.{ending}:{key}" for key in keys]
        assert [row["caption"] for row in rows] == ["patchy opacity, left base", "mild edema", "small effusion"]
        assert [row["error"] for row in rows] == [None] * 3
    first, second = (load_attributions(desk / name)["image_saliency"] for name in ("maps", "maps-json"))
    assert first == second
    scores = load_scores(desk / "scores")
    assert set(scores["method"]) == {"m2ib", "gradcam", "random"}
    assert len(scores[(scores["measure"] == "image_pointing") & (scores["method"] == "m2ib")]) == 3
    line = "on what the caption names (2 pairs, not defined for up to 1 more)"
    assert line in (desk / "scores" / "table.md").read_text()
    prompts = [json.loads(line) for line in (desk / "maps" / "masks" / "prompts.jsonl").read_text().splitlines()]
    assert [prompt["size"] for prompt in prompts] == [[53, 64]] * 3
    assert len(list((desk / "maps" / "masks").glob("*.png"))) == 3
    saved = yaml.safe_load((desk / "maps" / "config.yaml").read_text())["bottleneck"]
    assert (saved["image"]["layer"], saved["text"]["layer"], saved["steps"]) == (9, 7, 10)
    (code,) = re.findall(r"```python\n(.*?)```", WALK, flags=re.DOTALL)
    exec(compile(code, "radiology.md", "exec"), {})
    assert capsys.readouterr().out.splitlines()[0] == (
        f"{path_of('02aa804e-bde0afdd')} patchy opacity, left base (64, 53)"
    )
