"""Checkpoint files that are damaged or hostile: a message that says why, and nothing of the file is run."""

from __future__ import annotations

import argparse
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from m2ib_lightning import load_model
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.models.archive import read_checkpoint

Members = dict[str, bytes]


class Small(nn.Module):
    """A module with a child, a tensor of each kind, and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.turned = nn.Parameter(torch.randn(4, 5).half().T)
        self.register_buffer("steps", torch.tensor(7))
        self.loose = torch.ones(2, 2)
        self.size = 5

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.loose[0] * self.size


@pytest.fixture
def script(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.jit.script(Small()).save(str(path := tmp_path / "script.pt"))
    return path


@pytest.fixture
def state(tmp_path: Path) -> Path:
    torch.save({"weight": torch.arange(6.0).reshape(2, 3)}, path := tmp_path / "state.pt")
    return path


class Payload:
    """An object whose unpickling makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.marker}'",)


def rewrite(path: Path, change: Callable[[Members, str], None], compression: int = zipfile.ZIP_STORED) -> None:
    """Change the members of a zip archive; ``change`` gets them and the name of the archive's root."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    root = next(name for name in members if name.endswith("/data.pkl")).removesuffix("data.pkl")
    change(members, root)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def put(member: str, data: bytes) -> Callable[[Members, str], None]:
    return lambda members, root: members.update({root + member: data})


def edit(member: str, old: bytes, new: bytes) -> Callable[[Members, str], None]:
    def change(members: Members, root: str) -> None:
        assert old in members[root + member]
        members[root + member] = members[root + member].replace(old, new)

    return change


def test_a_script_has_the_tensors_that_torch_reads(script: Path) -> None:
    expected = torch.jit.load(script).state_dict()
    values = read_checkpoint(script, ["size"])
    assert values.pop("size") == 5
    assert torch.equal(values.pop("loose"), torch.ones(2, 2))  # neither a parameter nor a buffer
    assert values.keys() == expected.keys()
    assert all(torch.equal(values[name], expected[name]) for name in expected)
    assert values["turned"].dtype == torch.float16
    assert "size" not in read_checkpoint(script)


def test_the_code_of_a_script_is_not_read(script: Path) -> None:
    def replace_code(members: Members, root: str) -> None:
        for name in members:
            if "/code/" in name:
                members[name] = b"this is no program"

    rewrite(script, replace_code)
    with pytest.raises(RuntimeError):
        torch.jit.load(script)
    assert len(read_checkpoint(script)) == 5


CALL = b"cposix\nsystem\n(X\x05\x00\x00\x00falsetR"
ENDLESS = b"]q\x00" + b"(h\x00h\x00tq\x00" * 60  # tuples of tuples: 2 ** 60 parts if anybody looks at all of them


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (b"\x80\x02" + CALL + b".", r"data.pkl calls 'posix system', and no call is made here"),
        (b"\x80\x02c__torch__\nM\n)\x81}(X\x01\x00\x00\x00a" + CALL + b"ub.", "calls 'posix system'"),
        (b"\x80\x02csubprocess\nPopen\n)\x81.", "makes an object of 'subprocess Popen'"),
        (b"\x80\x02(X\x01\x00\x00\x00aios\nsystem\n.", "has the instruction INST, which TorchScript does not write"),
        (b"\x80\x02c__torch__\nM\n)\x81\x80\x04\x8c\x02os\x8c\x06system\x93.", "instruction STACK_GLOBAL"),
        (b"\x80\x02cposix\nsystem\n}b.", "sets the state of what is no module"),
        (b"\x80\x02]q\x00h\x00a.", "holds no module"),
        (b"\x80\x02" + ENDLESS + b".", "holds no module"),
        (b"\x80\x02" + ENDLESS + b"Q.", "numbers of the type a tuple|is damaged"),
        (b"\x80\x02]r\xff\xff\xff\xff.", "holds no module"),
        (b"\x80\x02B\xff\xff\xff\x7fabc.", "is damaged, or of another kind"),
        (b"\x80\x02tttt.", "is damaged, or of another kind"),
        (b"\x80\x02c__torch__\nM\n)\x81", "is damaged, or of another kind"),
        (b"", "is damaged, or of another kind"),
        (b"\x80\x02" + b"(" * (5 << 20) + b".", "data.pkl has more than 4194304 bytes"),
        (b"\x80\x02c__torch__\nM\n)\x81.", "its tensors have no names, as after torch.jit.freeze"),
    ],
)
def test_a_script_that_describes_more_than_tensors(description: bytes, message: str, script: Path) -> None:
    rewrite(script, put("data.pkl", description))
    with pytest.raises(M2IBError, match=f"could not read the checkpoint.*{message}.*Nothing in the file was run"):
        read_checkpoint(script)


def test_a_module_in_itself_is_refused(script: Path) -> None:
    inside = b"\x80\x02c__torch__\nM\n)\x81q\x00}(X\x01\x00\x00\x00ah\x00ub."
    rewrite(script, put("data.pkl", inside))
    with pytest.raises(M2IBError, match="modules in each other, or more than 100000 values"):
        read_checkpoint(script)


SIX = b"K\x02K\x03\x86"  # the shape (2, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("data/0", b"\0" * 4), "'script/data/0' must have 40 bytes, and has 4 bytes"),
        (lambda members, root: members.pop(f"{root}data/0"), "'script/data/0' must have 40 bytes, and has nothing"),
        (put("byteorder", b"big"), "its numbers are big-endian"),
        (lambda members, root: members.update({"x/data.pkl": b""}), "has one data.pkl, and this one has 2"),
        (edit("data.pkl", b"FloatStorage", b"QInt8Storage"), "numbers of the type 'torch QInt8Storage'"),
        (edit("data.pkl", b"K\x02K\x03t", b"K\x02K\x09t"), r"shape \(2, 9\) does not lie within its 6 numbers"),
        (edit("data.pkl", b"K\x03K\x01t", b"K\x00K\x09t"), r"shape \(2, 3\) does not lie within its 6 numbers"),
        (edit("data.pkl", b"K\x03K\x01t", b"K\x03Nt"), "describes the shape of a tensor wrongly"),
    ],
)
def test_a_script_whose_numbers_do_not_fit(change: Callable[[Members, str], None], message: str, script: Path) -> None:
    rewrite(script, change)
    with pytest.raises(M2IBError, match=message):
        read_checkpoint(script)


@pytest.mark.parametrize("kind", ["state", "script"])
def test_a_compressed_archive_is_refused_before_it_is_unpacked(kind: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(kind)
    rewrite(path, put("data/0", b"\0" * (4 << 20)), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 18
    with pytest.raises(M2IBError, match=r"is compressed, which torch\.save never does"):
        read_checkpoint(path)


@pytest.mark.parametrize("kind", ["state", "script"])
def test_members_that_claim_the_same_bytes_are_refused(kind: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(kind)
    data = path.read_bytes()
    at = data.rindex(b"/data/0") - len(path.stem) - 46 + 20  # the sizes in the directory at the end of the file
    path.write_bytes(data[:at] + struct.pack("<II", 1 << 30, 1 << 30) + data[at + 8 :])
    with pytest.raises(M2IBError, match="claim more bytes than the file has"):
        read_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_a_call_is_refused_and_not_run(zipped: bool, tmp_path: Path) -> None:
    marker, path = tmp_path / "RAN", tmp_path / "evil.pt"
    torch.save({"weight": torch.ones(3), "evil": Payload(marker)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(M2IBError, match=r"holds 'posix.system', which is no tensor.*Nothing in the file was run"):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(M2IBError, match="Nothing in the file was run"):
        read_checkpoint(path)
    assert not marker.exists()
    pickle.loads(path.read_bytes())
    assert marker.exists()  # the payload works


def test_other_objects_beside_the_tensors_are_named(tmp_path: Path) -> None:
    torch.save({"args": argparse.Namespace(lr=1.0), "state_dict": {}}, path := tmp_path / "run.pt")
    with pytest.raises(M2IBError, match=r"holds 'argparse.Namespace', which is no tensor \(if you trust the file"):
        read_checkpoint(path)


def test_a_storage_that_claims_more_than_its_member_is_refused(state: Path) -> None:
    claim = (b"K\x06tq", b"J\x00\x00\x00\x40tq")
    rewrite(state, edit("data.pkl", *claim))
    rewrite(state, edit("data.pkl", b"K\x02K\x03\x86", b"J\x00\x00\x00\x10K\x04\x86"))
    with pytest.raises(M2IBError, match="is damaged, or of another kind"):
        read_checkpoint(state)


@pytest.mark.parametrize("kind", ["state", "script"])
def test_a_file_that_was_cut_off(kind: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(kind)
    data = path.read_bytes()
    for kept in (1, 3, 4, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:kept])
        with pytest.raises(M2IBError, match=r"damaged"):
            read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "it is empty"), (b"a text\n" * 9, "damaged, or of another kind"), (b"\x80\x02N.", "of another kind")],
)
@pytest.mark.parametrize("name", ["file.pt", "file.safetensors"])
def test_files_of_another_kind(content: bytes, message: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(M2IBError, match=message):
        load_model(f"openai:{tmp_path / name}")


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(M2IBError, match="it is not a regular file"):
        load_model(f"openai:{tmp_path / 'pipe.pt'}")
