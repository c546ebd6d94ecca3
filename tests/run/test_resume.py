"""A run goes on where it stopped: journals, retries, and what must not differ."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from m2ib_lightning import M2IBError, load_attributions
from m2ib_lightning.cli import main
from m2ib_lightning.datamodules.captions import CaptionSource, Columns
from m2ib_lightning.datamodules.scenes import SceneSource
from m2ib_lightning.files import atomic_write, atomic_write_text
from m2ib_lightning.pairs.pair import Pair
from m2ib_lightning.pairs.tables.open_table import open_table
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.run.counts import Counts
from m2ib_lightning.run.differences import differences
from m2ib_lightning.run.journal import Journal, journal_of, journals, read_journal, recover
from m2ib_lightning.run.parts import read_counts
from m2ib_lightning.run.sharding import begin_launch, ranks_at_work
from m2ib_lightning.run.sharding import launch as launch_module
from m2ib_lightning.run.table import tables
from tests.conftest import ROOT
from tests.folders import save_clip_folder, save_photograph

FAST = ["bottleneck.steps=2", "bottleneck.noise_samples=2", "trainer.enable_progress_bar=false"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip_folder(tmp_path_factory.mktemp("clip"))


def failed_rows(first: int, count: int) -> list[Attribution]:
    return [
        Attribution(Pair(key=f"t:{k}", id="x", image="", caption="c"), error="e") for k in range(first, first + count)
    ]


def journal_with(part: Path, batches: int) -> Journal:
    journal = Journal(part)
    for batch in range(batches):
        results = failed_rows(3 * batch, 3)
        journal.append([result.to_row() for result in results], Counts.of(results, seconds=0.5))
    return journal


def test_a_journal_becomes_a_part(tmp_path: Path) -> None:
    part = tmp_path / "part-0001-00000-000000.parquet"
    journal = journal_with(part, 2)
    assert not part.exists()
    assert sum(table.num_rows for table in tables(tmp_path, ["key"])) == 6  # nobody has to wait for the part
    journal.close()
    assert [row["key"] for row in pq.read_table(part).to_pylist()] == [f"t:{k}" for k in range(6)]
    assert read_counts(part) == Counts(failed=6, seconds=1.0)
    assert list(tmp_path.iterdir()) == [part]


def test_a_journal_cut_anywhere_keeps_its_whole_batches(tmp_path: Path) -> None:
    journal_with(tmp_path / "part-0001-00000-000000.parquet", 3)
    written = journal_of(tmp_path / "part-0001-00000-000000.parquet").read_bytes()
    cut = tmp_path / ".part-0001-00001-000000.arrows"
    seen = set()
    for size in [*range(0, len(written), 7), len(written)]:
        cut.write_bytes(written[:size])
        table, counts = read_journal(cut)
        assert table.num_rows % 3 == 0
        assert counts.failed == table.num_rows
        assert table["key"].to_pylist() == [f"t:{k}" for k in range(table.num_rows)]
        seen.add(table.num_rows)
    assert seen == {0, 3, 6, 9}


def test_a_kill_between_the_part_and_the_end_of_its_journal_gives_no_row_twice(tmp_path: Path) -> None:
    part = tmp_path / "part-0001-00000-000000.parquet"
    journal_with(part, 1)
    kept = journal_of(part).read_bytes()
    recover(journal_of(part))
    journal_of(part).write_bytes(kept)
    assert journals(tmp_path) == []
    assert sum(table.num_rows for table in tables(tmp_path, ["key"])) == 3


def test_a_writer_that_was_taken_for_dead_loses_nothing(tmp_path: Path) -> None:
    part = tmp_path / "part-0001-00000-000000.parquet"
    journal = journal_with(part, 1)
    recover(journal_of(part))
    late = failed_rows(3, 3)
    journal.append([result.to_row() for result in late], Counts.of(late))
    journal.close()
    assert [row["key"] for row in pq.read_table(part).to_pylist()] == [f"t:{k}" for k in range(6)]
    assert list(tmp_path.iterdir()) == [part]


def test_who_is_at_work_is_not_known_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = begin_launch(tmp_path / "launches", 3, 10)
    assert launch.others(0) == {1: "lost", 2: "lost"}
    with launch.lock(1):
        monkeypatch.setattr(launch_module, "fcntl", None)
        assert launch.others(0) == {1: "unknown", 2: "lost"}
        assert launch.others_at_work(0)
        assert ranks_at_work(tmp_path / "launches") == []
    launch.finish(1)
    assert launch.others(0) == {1: "finished", 2: "lost"}
    assert not launch.others_at_work(0)
    assert begin_launch(tmp_path / "launches", 1, 10).number == 2


def test_what_a_kill_in_the_middle_of_a_part_leaves_is_cleared_away(folder: Path, copy: Path) -> None:
    half = copy / "attributions" / ".part-0001-00000-000003.parquet.ab12cd34.tmp"
    half.write_bytes(b"PAR1")
    assert run(folder, copy, "data.limit=7", "resume=true") == 0
    assert not half.exists()


def test_a_journal_that_can_not_be_read_back_is_kept(tmp_path: Path) -> None:
    journal = journal_with(tmp_path / "part-0001-00000-000000.parquet", 2)
    os.truncate(journal.path, journal.path.stat().st_size - 9)
    with pytest.raises(OSError, match="could be read back to row 3 of 6 only; it is kept"):
        journal.close()
    assert list(tmp_path.iterdir()) == [journal.path]


def test_nobody_is_a_rank_twice(tmp_path: Path) -> None:
    launch = begin_launch(tmp_path / "launches", 2, 10)
    with launch.lock(1):
        pass
    with pytest.raises(M2IBError, match="two processes have the same rank"), launch.lock(1):
        pass
    assert launch.is_last()
    begin_launch(tmp_path / "launches", 2, 10)
    assert not launch.is_last()


def test_a_run_whose_launches_were_removed_loses_no_row(folder: Path, copy: Path) -> None:
    shutil.rmtree(copy / "launches")
    assert run(folder, copy, "data.limit=9", "resume=true") == 0
    assert len(load_attributions(copy)) == 9
    assert [folder.name for folder in (copy / "launches").iterdir()] == ["0002"]


def test_no_part_is_written_over(tmp_path: Path) -> None:
    part = tmp_path / "part-0001-00000-000000.parquet"
    journal_with(part, 1).close()
    with pytest.raises(FileExistsError, match="names of its own"):
        Journal(part)


def test_an_empty_journal_is_no_part(tmp_path: Path) -> None:
    Journal(tmp_path / "part-0001-00000-000000.parquet").close()
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_whole_or_not_at_all(tmp_path: Path) -> None:
    atomic_write_text(tmp_path / "a.json", "first")
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "a.json") as file:
        file.write(b"second" if file.write(b"part of it") > 100 else bytes(1 // 0))
    assert (tmp_path / "a.json").read_text() == "first"
    assert len(list(tmp_path.iterdir())) == 1


def run(folder: Path, path: Path, *more: str) -> int:
    return main([f"model.name={folder}", f"output_dir={path}", *FAST, *more])


@pytest.fixture(scope="module")
def seven(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of seven scenes."""
    path = tmp_path_factory.mktemp("seven") / "run"
    assert run(folder, path, "data.limit=7") == 0
    return path


@pytest.fixture
def copy(seven: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(seven, tmp_path / "run"))


def test_a_longer_run_is_the_shorter_one_continued(folder: Path, seven: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    more = ["data.batch_size=2", "output.heatmaps=1000"]
    assert run(folder, path, "data.limit=3", "resume=true") == 0  # where nothing is, it begins
    assert run(folder, path, "data.limit=7", "resume=true", *more) == 0
    assert differences(path, seven) == []
    assert json.loads((path / "summary.json").read_text())["pairs_done"] == 7
    assert [folder.name for folder in sorted((path / "launches").iterdir())] == ["0001", "0002"]


def test_a_run_that_is_done_stays_as_it_is(
    folder: Path, copy: Path, seven: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {part.name: part.read_bytes() for part in (copy / "attributions").iterdir()}
    assert run(folder, copy, "data.limit=7", "resume=true") == 0
    assert {part.name: part.read_bytes() for part in (copy / "attributions").iterdir()} == parts
    assert "7 pairs, 7 of them done before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("seed=1", "seed was 0 and is now 1"),
        ("bottleneck.steps=3", "bottleneck.steps was 2 and is now 3"),
        ("bottleneck.image.layer=0", "bottleneck.image.layer was 1 and is now 0"),
        ("model.name=scenes", "model.name was '"),
        ("trainer.precision=64-true", "trainer.precision was '32-true' and is now '64-true'"),
        ("data.fit=pad", "data.fit was None and is now 'pad'"),
        ("data.objects=2", "data.objects was 3 and is now 2"),
    ],
)
def test_another_configuration_is_refused(
    word: str, said: str, folder: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()}
    assert run(folder, copy, "resume=true", word) == 2
    assert said in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file()} == before


def test_the_saved_configuration_resumes_the_run(folder: Path, copy: Path) -> None:
    assert main(["--config", str(copy / "config.yaml"), f"output_dir={copy}", "resume=true", "data.limit=8"]) == 0
    assert len(load_attributions(copy)) == 8


def test_a_run_of_a_version_without_some_keys_is_resumed(folder: Path, copy: Path) -> None:
    config = copy / "config.yaml"
    config.write_text("".join(line for line in config.read_text().splitlines(True) if "allow_urls" not in line))
    config.write_text("".join(line for line in config.read_text().splitlines(True) if "streaming" not in line))
    assert run(folder, copy, "data.limit=8", "resume=true") == 0
    assert len(load_attributions(copy)) == 8


def test_failed_pairs_are_tried_again_when_asked(folder: Path, tmp_path: Path) -> None:
    captions = ["a red circle", "a star", "the ring"]
    names = ["one.png", "two.png", "three.png"]
    rows = "".join(f"{name},{caption}\n" for name, caption in zip(names, captions, strict=True))
    (tmp_path / "pairs.csv").write_text("image,caption\n" + rows)
    save_photograph(tmp_path / "one.png", 40, 40)
    save_photograph(tmp_path / "three.png", 40, 50)
    words = ["data.name=captions", f"data.path={tmp_path / 'pairs.csv'}", "data.num_workers=0"]
    path = tmp_path / "run"
    assert run(folder, path, *words) == 0
    assert run(folder, path, *words, "resume=true") == 0
    assert [row is None for row in load_attributions(path)["error"]] == [True, False, True]
    save_photograph(tmp_path / "two.png", 50, 40)
    assert run(folder, path, *words, "resume=true", "retry_failed=true") == 0
    assert run(folder, tmp_path / "clean", *words) == 0
    assert differences(path, tmp_path / "clean") == []
    summary = json.loads((path / "summary.json").read_text())
    assert (summary["pairs_done"], summary["pairs_failed"]) == (3, 0)


def test_failed_pairs_beyond_the_limit_stay(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pairs.csv").write_text("image,caption\n" + "".join(f"{k}.png,a star\n" for k in range(5)))
    save_photograph(tmp_path / "0.png", 40, 40)
    save_photograph(tmp_path / "3.png", 40, 40)
    words = ["data.name=captions", f"data.path={tmp_path / 'pairs.csv'}", "data.num_workers=0", "data.batch_size=2"]
    path = tmp_path / "run"
    assert run(folder, path, *words) == 0
    save_photograph(tmp_path / "1.png", 40, 40)
    save_photograph(tmp_path / "4.png", 40, 40)
    capsys.readouterr()
    assert run(folder, path, *words, "resume=true", "retry_failed=true", "data.limit=2") == 0
    assert "2 pairs, 1 of them done before" in capsys.readouterr().out
    table = load_attributions(path)
    assert table["key"] == [f"pairs.csv:{k}" for k in range(5)]
    assert [error is None for error in table["error"]] == [True, True, False, True, False]
    summary = json.loads((path / "summary.json").read_text())
    assert (summary["pairs_done"], summary["pairs_failed"], summary["pairs_skipped"]) == (3, 2, 0)
    assert run(folder, path, *words, "resume=true", "retry_failed=true") == 0
    assert [error is None for error in load_attributions(path)["error"]] == [True, True, False, True, True]


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


def test_every_source_knows_its_keys(tmp_path: Path) -> None:
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
def test_a_full_disk_ends_the_run_with_a_message_and_resume_goes_on(folder: Path, tmp_path: Path) -> None:
    """On a file system of 600 kB, in a mount namespace of its own; then on one with room."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    small, kept = tmp_path / "small", tmp_path / "kept"
    small.mkdir()
    words = f"model.name={folder} {' '.join(FAST)} data.limit=40 data.batch_size=2 output.heatmaps=12"
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
def test_a_process_that_dies_of_a_pair_costs_that_pair(folder: Path, tmp_path: Path) -> None:
    """The decoding process is killed whenever it reads one of the images, as the system does when memory is short."""
    for k in range(9):
        save_photograph(tmp_path / f"{k}.png", 40, 40 + k)
    (tmp_path / "pairs.csv").write_text("image,caption\n" + "".join(f"{k}.png,a red circle\n" for k in range(9)))
    words = [f"model.name={folder}", "data.name=captions", f"data.path={tmp_path / 'pairs.csv'}", *FAST]
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
    found = differences(tmp_path / "run", tmp_path / "clean")
    assert {line.split(":")[1] for line in found} == {"4"}


@pytest.mark.slow
def test_chaos(tmp_path: Path) -> None:
    """A short form of ``scripts/chaos.py``."""
    chaos = [
        sys.executable,
        "scripts/chaos.py",
        "--kills=2",
        "--pairs=60",
        "--seed=1",
        f"--out={tmp_path}",
        "--ranks=2",
    ]
    done = subprocess.run(chaos, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "60 rows, 0 differences" in done.stdout
