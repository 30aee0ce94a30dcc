"""A build that travels arrives whole, as what its hash says, or not at all."""

from pathlib import Path

import pytest

from optimizer.executors.parcels import hash_of, moved_to, packed, unpacked
from optimizer.targets.builds import RECORD, recorded
from optimizer.trial import Artifact, Reason, TrialError


def built(folder: Path) -> Artifact:
    place = folder / "key"
    place.mkdir(parents=True)
    program = place / "program"
    program.write_bytes(b"\x7fELF")
    program.chmod(0o755)
    return Artifact("key", "code", path=str(program))


def test_it_arrives_as_it_was_built(tmp_path: Path) -> None:
    artifact = built(tmp_path / "a")
    content = packed(tmp_path / "a" / "key")
    there = moved_to(artifact, tmp_path / "a", tmp_path / "b")
    unpacked(content, hash_of(content), there, tmp_path / "b" / "key")
    assert Path(there.path).read_bytes() == b"\x7fELF"
    assert Path(there.path).stat().st_mode & 0o100, "it can be run"
    known = recorded(tmp_path / "b" / "key" / RECORD)
    assert known is not None
    assert Artifact(**known) == there, "a build there takes it for its own"


def test_one_that_lies_there_stays(tmp_path: Path) -> None:
    artifact = built(tmp_path / "a")
    content = packed(tmp_path / "a" / "key")
    Path(artifact.path).write_bytes(b"first")
    unpacked(content, hash_of(content), artifact, tmp_path / "a" / "key")
    assert Path(artifact.path).read_bytes() == b"first"


def test_a_damaged_one_never_arrives(tmp_path: Path) -> None:
    artifact = built(tmp_path / "a")
    content = packed(tmp_path / "a" / "key")
    for broken in (content[:-1], b"", content[:600] + b"x" + content[601:]):
        with pytest.raises(OSError, match="damaged"):
            unpacked(broken, hash_of(content), artifact, tmp_path / "b" / "key")
    assert not (tmp_path / "b").exists()


def test_a_file_that_points_outside_is_refused(tmp_path: Path) -> None:
    artifact = built(tmp_path / "a")
    (tmp_path / "a" / "key" / "link").symlink_to("/etc/passwd")
    content = packed(tmp_path / "a" / "key")
    with pytest.raises(TrialError) as raised:
        unpacked(content, hash_of(content), artifact, tmp_path / "b" / "key")
    assert raised.value.reason is Reason.REJECTED
    assert list((tmp_path / "b").iterdir()) == []
