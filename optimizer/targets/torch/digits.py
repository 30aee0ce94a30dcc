"""How well does a trained conv net read handwritten digits it has never seen?

The weights and digits lie beside this file; experiments/digits/train.py made them. 1,000 digits are held out for the
accuracy, 500 of those that it was trained on serve for calibration.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from optimizer.errors import ConfigError
from optimizer.space import Json, digest
from optimizer.targets.builds import file_hash
from optimizer.targets.torch.parts import Call, Knobs
from optimizer.targets.torch.plain import PlainTask

DATA = Path(__file__).parent / "data"
WEIGHTS, DIGITS = DATA / "digits.safetensors", DATA / "digits.npz"
BATCH = 16


class DigitsNet(nn.Module):
    """(B, 1, 28, 28) grey digits from 0 to 1 -> (B, 10) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *_block(1, 16), nn.MaxPool2d(2), *_block(16, 32), *_block(32, 32), nn.MaxPool2d(2)
        )
        self.hidden, self.head = nn.Linear(32 * 7 * 7, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(functional.relu(self.hidden(self.convolutions(x).flatten(1))))
        return logits


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()


def trained() -> nn.Module:
    """The net with its trained weights, which are stored in bfloat16."""
    net = DigitsNet()
    net.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in load_file(WEIGHTS).items()})
    return net.eval()


def digits(part: str) -> tuple[Tensor, Tensor]:
    """`test` or `calibration`: images (N, 1, 28, 28) from 0 to 1, labels (N,)."""
    with np.load(DIGITS, allow_pickle=False) as stored:
        images, labels = stored[f"{part}_images"], stored[f"{part}_labels"]
    return torch.from_numpy(images).float().unsqueeze(1) / 255.0, torch.from_numpy(labels).long()


def digits_task(options: Mapping[str, Json], knobs: Knobs, device: str) -> PlainTask:
    """options: `batch`, over which the knob of that name stands."""
    if unknown := sorted(set(options) - {"batch"}):
        raise ConfigError(f"target=digits has no option {', '.join(unknown)}; it has batch.")
    batch = int(knobs.get("batch", options.get("batch", BATCH)))
    images, labels = digits("test")
    if not 1 <= batch <= len(images):
        raise ConfigError(f"batch is a number from 1 to {len(images)}, not {batch}.")
    images, labels = images.to(device), labels.to(device)
    calibrating, _ = digits("calibration")

    def batches() -> list[Tensor]:
        """All digits in batches of one size: a compiled net takes no other. The last ones are read again to fill up."""
        starts = [*range(0, len(images) - batch, batch), len(images) - batch]
        return [images[start : start + batch] for start in starts]

    def accuracy(call: Call) -> Mapping[str, float]:
        right = torch.zeros(len(images), dtype=torch.bool)
        for start, x in zip([*range(0, len(images) - batch, batch), len(images) - batch], batches(), strict=True):
            logits = call(x)
            logits = logits if isinstance(logits, Tensor) else logits[0]
            right[start : start + batch] = (logits.argmax(-1) == labels[start : start + batch]).cpu()
        return {"accuracy": float(right.double().mean())}

    return PlainTask(
        hashed=digest([file_hash(WEIGHTS), file_hash(DIGITS), file_hash(Path(__file__)), batch]),
        make=trained,
        example=(images[:batch],),
        judged=[(x,) for x in batches()],
        calibrating=[(calibrating[i : i + batch],) for i in range(0, len(calibrating), batch)],
        axis=-1,
        evaluate=accuracy,
    )
