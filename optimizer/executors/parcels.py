"""How does a finished build travel to another machine? As one tar of its folder, named by its hash."""

import contextlib
import hashlib
import io
import shutil
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path

from optimizer.targets.builds import write_record
from optimizer.trial import Artifact, Reason, TrialError


def hash_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def packed(place: Path) -> bytes:
    """The folder of a build without the times and owners of its files; b"" where there is no such folder."""
    if not place.is_dir():
        return b""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(place, arcname=".", filter=_plain)
    return buffer.getvalue()


def unpacked(content: bytes, sha256: str, artifact: Artifact, place: Path) -> None:
    """Puts a build where it belongs, whole or not at all; one that lies there already stays. `artifact`: as it is at
    this place, for the build's own record.

    Raises OSError where the content is not what its hash says, TrialError(REJECTED) where a file of it would come to
    lie outside its folder.
    """
    if hash_of(content) != sha256:
        raise OSError(f"the build {place.name} arrived damaged")
    if not content or place.is_dir():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=place.parent, prefix="arriving-"))
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(aside, filter="data")
        write_record(aside, artifact)
        with contextlib.suppress(OSError):  # another was faster and brought the same
            aside.rename(place)
    except tarfile.FilterError as error:
        raise TrialError(Reason.REJECTED, f"what this point builds can't be sent to another machine: {error}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def moved_to(artifact: Artifact, old: Path, new: Path) -> Artifact:
    """The same artifact after its folder was unpacked elsewhere; one that has no file stays as it is."""
    path = Path(artifact.path)
    if not artifact.path or not path.is_relative_to(old):
        return artifact
    return replace(artifact, path=str(new / path.relative_to(old)))


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime, member.uid, member.gid, member.uname, member.gname = 0, 0, 0, "", ""
    return member
