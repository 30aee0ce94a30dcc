"""A study for each kind of device: apart, named, each with the words that choose its device."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path

import pytest
from commands import command
from fake_nvml import FakeNvml
from test_telemetry import answering

from optimizer.cli import per_device as module
from optimizer.cli.per_device import per_device, suffixes
from optimizer.config import composed
from optimizer.config.kinds import Kind, kinds_of
from optimizer.device import chosen_gpus, gpu_kinds
from optimizer.errors import ConfigError
from optimizer.journal import read

KINDS = [Kind("Tesla T4, 15 MiB", ("device=cuda:a",)), Kind("NVIDIA H100 80GB HBM3, x", ("device=cuda:b+c",))]


@pytest.fixture
def _two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "kinds_of", lambda *_: KINDS)


@pytest.mark.usefixtures("_two")
def test_each_kind_has_a_study_and_one_that_fails_does_not_keep_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["target=synthetic", f"studies_dir={tmp_path}", "study=s"]
    (tmp_path / "s-nvidia-h100-80gb-hbm3").mkdir()
    (tmp_path / "s-nvidia-h100-80gb-hbm3" / "journal.jsonl").touch()
    seen: list[tuple[Sequence[str], bool]] = []

    def search(given: Sequence[str], resume: bool) -> None:
        seen.append((given[len(words) :], resume))
        if "device=cuda:a" in given:
            raise ConfigError("this one can't")

    with pytest.raises(SystemExit) as end:
        per_device(words, composed(words, ()), search, resume=True)
    assert end.value.code == 2 and "error: this one can't" in capsys.readouterr().err
    assert seen == [
        (["device=cuda:a", "study=s-tesla-t4"], False),
        (["device=cuda:b+c", "study=s-nvidia-h100-80gb-hbm3"], True),
    ]


def test_studies_whose_devices_share_a_name_are_numbered() -> None:
    kinds = [Kind(name, ()) for name in ("T4, driver 1", "T4, driver 2", "…", "H100")]
    assert suffixes(kinds) == ["t4-1", "t4-2", "device", "h100"]


def test_gpus_of_one_kind_can_be_compared_and_none_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    answering(monkeypatch, FakeNvml("several"))
    kinds = gpu_kinds()
    assert len(kinds) > 1
    for uuids in kinds.values():
        try:
            chosen = [gpu.uuid for gpu in chosen_gpus(f"cuda:{'+'.join(uuids)}", {})]
        except ConfigError as refused:  # one of the recorded GPUs is held by another process
            assert "exclusive process" in str(refused)
        else:
            assert chosen == uuids
    words = ["target=gemm_cuda", "device=cuda"]
    assert [k.words for k in kinds_of(composed(words, ()), date(2026, 1, 1))] == [
        (f"device=cuda:{'+'.join(uuids)}",) for uuids in kinds.values()
    ]


def test_one_processor_is_one_study(tmp_path: Path) -> None:
    words = ("target=synthetic", "budget.trials=5", "measure=quick", "tracking=none", "study=s", "device=cpu")
    command("search", *words, "--per-device", cwd=tmp_path)
    assert len(read(tmp_path / "studies" / "s-cpu" / "journal.jsonl").trials) == 5
