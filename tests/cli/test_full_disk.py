"""A disk that is full while a search writes: a clear error, no half line, and it goes on once there is room."""

import json
import resource
import subprocess
from pathlib import Path

from commands import PROGRAM, command, environment, lines, search_json
from disks import small_disk

WORDS = ("target=synthetic", "target.noise=0", "measure=quick", "budget.trials=40", "measure.confirm.max_seconds=1")


def undisturbed(folder: Path) -> list[object]:
    search_json(*WORDS, "study=whole", "tracking=none", cwd=folder)
    return [t["point"] for t in lines(folder / "studies" / "whole" / "journal.jsonl") if t.get("kind") == "trial"]


def test_a_full_disk_ends_the_search_clearly_and_it_goes_on_when_there_is_room(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, 1 << 20) as mounted:
        words = (*WORDS, "study=full", f"studies_dir={disk}", "tracking=none")
        if mounted:
            (disk / "filler").write_bytes(bytes((1 << 20) - (48 << 10)))
            done = command("search", *words, cwd=tmp_path, status=1)
        else:  # a limit on the size of files says the same to whoever writes
            done = subprocess.run(
                [*PROGRAM, "search", *words], cwd=tmp_path, env=environment(), capture_output=True, text=True,
                check=False, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 10, 16 << 10)),
            )  # fmt: skip
            assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "No space left" in done.stderr or "too large" in done.stderr
        assert "--resume" in done.stderr
        journal = disk / "full" / "journal.jsonl"
        assert journal.read_bytes().endswith(b"\n")
        kept = [t["point"] for t in lines(journal) if t.get("kind") == "trial"]
        assert 0 < len(kept) < 40
        (disk / "filler").unlink(missing_ok=True)
        search_json("study=full", f"studies_dir={disk}", "--resume", cwd=tmp_path)
        points = [t["point"] for t in lines(journal) if t.get("kind") == "trial"]
    assert points[: len(kept)] == kept
    assert points == undisturbed(tmp_path)


def test_mlflow_on_a_full_disk_costs_a_warning_and_is_sent_later(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, 4096) as mounted:
        uri = f"sqlite:///{disk}/mlflow.db" if mounted else "sqlite:////dev/full/mlflow.db"
        done = command("search", *WORDS, "study=far", f"tracking.uri={uri}", "--json", cwd=tmp_path)
    assert "Traceback" not in done.stderr
    assert "Tracking is not complete" in done.stderr
    assert "optimizer track" in done.stderr
    assert json.loads(done.stdout)["trials"] == 40
    assert command("track", "far", cwd=tmp_path).stdout.startswith("40 trials")
