"""The digits net: trained for real, judged on digits that neither training nor calibration saw."""

from pathlib import Path

import pytest
import torch

from optimizer.errors import ConfigError
from optimizer.targets.torch.digits import digits, digits_task, trained
from optimizer.targets.torch.parts import Knobs
from optimizer.targets.torch.prune import Prune


def test_it_reads_the_held_out_digits_as_its_log_says() -> None:
    log = (Path(__file__).parents[3] / "experiments/digits/train.log").read_text(encoding="utf-8")
    images, labels = digits("test")
    with torch.inference_mode():
        right = int((trained()(images).argmax(-1) == labels).sum())
    assert right >= 980
    assert f"{right} of {len(images)} held-out digits" in log


def test_no_calibration_digit_is_held_out() -> None:
    test, calibration = digits("test")[0], digits("calibration")[0]
    assert len(test) == 1000
    assert not {x.numpy().tobytes() for x in test} & {x.numpy().tobytes() for x in calibration}


@pytest.mark.parametrize("batch", [1, 64, 300])
def test_accuracy_is_of_all_held_out_digits_whatever_the_batch(batch: int) -> None:
    task = digits_task({"batch": 16}, {"batch": batch}, "cpu")
    assert task.entries()["forward"][0].shape == (batch, 1, 28, 28)
    net = trained()
    with torch.inference_mode():
        answers = task.answers({"forward": net})
        check = task.judge(answers, answers)
    right = int((net(digits("test")[0]).argmax(-1) == digits("test")[1]).sum())
    assert check.quality["accuracy"] == pytest.approx(right / 1000, abs=1e-6)
    assert check.quality["quality_loss_pct"] == 0.0
    assert check.errors == {"max_rel_error": 0.0}


def test_channels_are_removed_with_little_loss_and_recovery_wins_it_back(tmp_path: Path) -> None:
    task = digits_task({}, {"batch": 50}, "cpu")
    knobs = dict.fromkeys(("prune_front_pct", "prune_middle_pct", "prune_back_pct"), 50)

    with torch.no_grad():
        right = task.answers({"forward": task.load()})
        at_once = Prune().apply(task.load(), task, {"prune": "structured", **knobs}, tmp_path / "a")
        taught: Knobs = {"prune": "structured", **knobs, "recovery_steps": 40, "recovery_rate": 0.001}
        later = Prune().apply(task.load(), task, taught, tmp_path / "b")
        lost = [
            task.judge(task.answers({"forward": made.module}), right).quality["quality_loss_pct"]
            for made in (at_once, later)
        ]
    assert at_once.facts["removed_parameters_pct"] > 60
    assert lost[1] < 8.0
    assert lost[1] <= lost[0]


def test_a_wrong_option_is_named() -> None:
    with pytest.raises(ConfigError, match="no option size"):
        digits_task({"size": 3}, {}, "cpu")
    with pytest.raises(ConfigError, match="from 1 to 1000"):
        digits_task({}, {"batch": 0}, "cpu")
