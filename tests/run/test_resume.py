"""A resumed run equals an uninterrupted one: retries, limits, and keys that must not change."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from m2ib_lightning import M2IBError, load_attributions
from m2ib_lightning.cli import main
from m2ib_lightning.datamodules.captions import CaptionSource, Columns
from m2ib_lightning.datamodules.scenes import SceneSource
from m2ib_lightning.pairs.tables.open_table import open_table
from m2ib_lightning.run.differences import differences
from tests import ROOT
from tests.folders import save_clip_folder, save_photograph

QUICK = ["bottleneck.steps=2", "bottleneck.noise_samples=2", "trainer.enable_progress_bar=false"]
FEW_PICTURES = ["output.heatmaps=2", "output.tensorboard_images=0"]  # drawing takes most of the time


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip_folder(tmp_path_factory.mktemp("clip"))


def run(folder: Path, path: Path, *more: str) -> int:
    return main([f"model.name={folder}", f"output_dir={path}", *QUICK, *FEW_PICTURES, *more])


@pytest.fixture(scope="module")
def seven(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run of seven scenes."""
    path = tmp_path_factory.mktemp("seven") / "run"
    assert run(folder, path, "data.limit=7") == 0
    return path


@pytest.fixture
def copy(seven: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(seven, tmp_path / "run"))


def test_a_resumed_shorter_run_equals_a_longer_run(folder: Path, seven: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert run(folder, path, "data.limit=3", "resume=true") == 0  # starts, as there is no run
    assert run(folder, path, "data.limit=7", "resume=true", "data.batch_size=2", "output.heatmaps=3") == 0
    assert differences(path, seven) == []
    assert json.loads((path / "summary.json").read_text())["pairs_done"] == 7
    assert [folder.name for folder in sorted((path / "launches").iterdir())] == ["0001", "0002"]


def test_resume_of_a_complete_run_removes_only_temporary_files(
    folder: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {part.name: part.read_bytes() for part in (copy / "attributions").iterdir()}
    (copy / "attributions" / ".part-0001-00000-000003.parquet.ab12cd34.tmp").write_bytes(b"PAR1")  # of a kill
    assert run(folder, copy, "data.limit=7", "resume=true") == 0
    assert {part.name: part.read_bytes() for part in (copy / "attributions").iterdir()} == parts
    assert "7 pairs, 7 of them done before" in capsys.readouterr().out


CHANGES = {
    "seed=1": "seed was 0 and is now 1",
    "bottleneck.steps=3": "bottleneck.steps was 2 and is now 3",
    "bottleneck.image.layer=0": "bottleneck.image.layer was 1 and is now 0",
    "trainer.precision=64-true": "trainer.precision was '32-true' and is now '64-true'",
    "data.fit=pad": "data.fit was None and is now 'pad'",
    "data.objects=2": "data.objects was 3 and is now 2",
}


@pytest.mark.parametrize("changes", [CHANGES, {"model.name=scenes": "model.name was '"}], ids=["keys", "model"])
def test_another_configuration_is_refused(
    changes: dict[str, str], folder: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}
    assert run(folder, copy, "resume=true", *changes) == 2
    message = capsys.readouterr().err
    assert [text for text in changes.values() if text not in message] == []
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()} == before


def test_the_saved_configuration_resumes_the_run(folder: Path, copy: Path) -> None:
    assert main(["--config", str(copy / "config.yaml"), f"output_dir={copy}", "resume=true", "data.limit=8"]) == 0
    assert len(load_attributions(copy)) == 8


def test_a_run_of_an_older_version_without_its_launches_is_resumed(folder: Path, copy: Path) -> None:
    config = copy / "config.yaml"
    lines = config.read_text().splitlines(keepends=True)
    older = [line for line in lines if "allow_urls" not in line and "streaming" not in line]
    assert len(older) == len(lines) - 2
    config.write_text("".join(older))
    shutil.rmtree(copy / "launches")
    assert run(folder, copy, "data.limit=9", "resume=true") == 0
    assert len(load_attributions(copy)) == 9
    assert [folder.name for folder in (copy / "launches").iterdir()] == ["0002"]


@pytest.mark.slow
def test_failed_pairs_within_the_limit_are_retried_on_request(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pairs.csv").write_text("image,caption\n" + "".join(f"{k}.png,a star\n" for k in range(5)))
    words = ["data.name=captions", f"data.path={tmp_path / 'pairs.csv'}", "data.num_workers=0", "data.batch_size=2"]
    path = tmp_path / "run"

    def add_pictures(*numbers: int) -> None:
        for number in numbers:
            save_photograph(tmp_path / f"{number}.png", 40, 40 + number)

    def assert_done(*done: bool) -> None:
        table = load_attributions(path)
        assert table["key"] == [f"pairs.csv:{k}" for k in range(5)]
        assert [error is None for error in table["error"]] == list(done)

    add_pictures(0, 3)
    assert run(folder, path, *words) == 0
    add_pictures(1, 4)
    capsys.readouterr()
    assert run(folder, path, *words, "resume=true", "retry_failed=true", "data.limit=2") == 0
    assert "2 pairs, 1 of them done before" in capsys.readouterr().out
    assert_done(True, True, False, True, False)  # 4 is beyond the limit
    summary = json.loads((path / "summary.json").read_text())
    assert (summary["pairs_done"], summary["pairs_failed"], summary["pairs_skipped"]) == (3, 2, 0)
    assert run(folder, path, *words, "resume=true") == 0
    assert_done(True, True, False, True, False)  # not on request
    add_pictures(2)
    assert run(folder, path, *words, "resume=true", "retry_failed=true") == 0
    summary = json.loads((path / "summary.json").read_text())
    assert (summary["pairs_done"], summary["pairs_failed"]) == (5, 0)
    assert run(folder, tmp_path / "clean", *words) == 0
    assert differences(path, tmp_path / "clean") == []


@pytest.mark.slow
def test_a_prior_from_the_data_is_kept_when_a_run_is_resumed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prior, path = "bottleneck.image.prior=data", tmp_path / "run"
    assert run(folder, path, "data.limit=3", prior, "bottleneck.calibration_pairs=4") == 0
    measured = (path / "statistics.safetensors").read_bytes()
    capsys.readouterr()
    assert run(folder, path, "data.limit=5", prior, "bottleneck.calibration_pairs=4", "resume=true") == 0
    assert "measuring" not in capsys.readouterr().out
    assert (path / "statistics.safetensors").read_bytes() == measured
    (path / "statistics.safetensors").unlink()
    (path / "config.yaml").write_text((path / "config.yaml").read_text().replace("statistics: ", "statistics: 0"))
    assert run(folder, path, "data.limit=5", prior, "bottleneck.calibration_pairs=4", "resume=true") == 2
    assert "statistics was '0" in capsys.readouterr().err


def test_the_table_in_source_order(seven: Path) -> None:
    table = load_attributions(seven)
    assert table["key"] == [f"scenes-0:{k}" for k in range(7)]
    assert load_attributions(seven, ["similarity"]).column_names == ["similarity"]
    with pytest.raises(M2IBError, match="no column 'similarty'\\. Did you mean"):
        load_attributions(seven, ["similarty"])
    with pytest.raises(M2IBError, match="is no run directory of task=attribute"):
        load_attributions(seven / "heatmaps")


def test_every_source_can_list_its_keys(tmp_path: Path) -> None:
    scenes = SceneSource(3, 4)
    assert [scenes.key(k) for k in range(4)] == [scenes[k].key for k in range(4)]
    cells: list[Any] = [["a", "b"], "c", None, [], [["d"]], ["e"]]
    lines = "\n".join(json.dumps({"image": {} if k == 0 else "x.png", "caption": c}) for k, c in enumerate(cells))
    (tmp_path / "t.jsonl").write_text(lines + "\nno json\n")
    source = CaptionSource(open_table(str(tmp_path / "t.jsonl"), "train", ("caption", "image")), Columns(), None)
    keys = [source.key(k) for k in range(len(source))]
    assert keys == [source[k].key for k in range(len(source))]
    assert len(set(keys)) == len(keys) == 8


@pytest.mark.slow
def test_a_full_disk_ends_the_run_with_a_message_and_resume_completes_it(folder: Path, tmp_path: Path) -> None:
    """First on a file system of 600 kB, in a mount namespace of its own; then on one with enough space."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    small, kept = tmp_path / "small", tmp_path / "kept"
    small.mkdir()
    words = f"model.name={folder} {' '.join(QUICK)} data.limit=40 data.batch_size=2 output.heatmaps=12"
    script = (
        f"mount -t tmpfs -o size=600k none {small} && cd {ROOT}\n"
        f"{sys.executable} fit.py {words} output_dir={small}/run\nstatus=$?\ncp -r {small}/run {kept}\nexit $status\n"
    )
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "No space left on device" in done.stderr
    assert "resume=true" in done.stderr
    assert "Traceback" not in done.stderr
    before = load_attributions(kept)
    assert 0 < len(before) < 40
    assert not list((kept / "heatmaps").glob(".*"))
    assert main([*words.split(), f"output_dir={kept}", "resume=true"]) == 0
    assert main([*words.split(), f"output_dir={tmp_path / 'clean'}"]) == 0
    assert differences(kept, tmp_path / "clean") == []


@pytest.mark.slow
def test_a_pair_that_kills_its_decoding_process_costs_only_itself(folder: Path, tmp_path: Path) -> None:
    """The process is killed whenever it reads one of the images, as the system does when memory is short."""
    for k in range(9):
        save_photograph(tmp_path / f"{k}.png", 40, 40 + k)
    (tmp_path / "pairs.csv").write_text("image,caption\n" + "".join(f"{k}.png,a red circle\n" for k in range(9)))
    words = [f"model.name={folder}", "data.name=captions", f"data.path={tmp_path / 'pairs.csv'}", *QUICK]
    assert main([*words, f"output_dir={tmp_path / 'clean'}"]) == 0
    killer = (
        "import os, signal, sys\nfrom m2ib_lightning.pairs import images, prepare\n"
        "from m2ib_lightning.cli import main\n"
        "read = images.read_image\n"
        "def deadly(image, *rest):\n"
        "    if str(image).endswith('4.png'): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return read(image, *rest)\n"
        "prepare.read_image = deadly\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    run = [*words, f"output_dir={tmp_path / 'run'}", "data.batch_size=9", "data.num_workers=1"]
    done = subprocess.run([sys.executable, "-c", killer, *run], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    rows = load_attributions(tmp_path / "run")
    assert [k for k, error in enumerate(rows["error"]) if error is not None] == [4]
    assert "the process that read it died" in rows["error"][4]
    lines = differences(tmp_path / "run", tmp_path / "clean")
    assert {line.split(":")[1] for line in lines} == {"4"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "kills", "outcome"),
    [
        ("attribute", 2, "60 rows, 0 differences"),
        ("evaluate", 2, "8 rows, 0 differences"),
        ("finetune", 1, "1 of 1 fine-tunings resumed to the uninterrupted weights"),
    ],
)
def test_chaos(task: str, kills: int, outcome: str, tmp_path: Path) -> None:
    """A short form of ``scripts/chaos.py``."""
    sizes = [f"--kills={kills}", "--pairs=60", "--ranks=2", "--seed=1"]
    chaos = [sys.executable, "scripts/chaos.py", "--tasks", task, *sizes, f"--out={tmp_path}"]
    done = subprocess.run(chaos, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert outcome in done.stdout
