"""Trains the small byte-level model that kernels/decoder ships, and writes down how.

python experiments/decoder/train.py          (about an hour on two cores; --steps shortens it)

The text is the standard library's pydoc_data.topics, which differs between Python versions: the pieces that were used
are written beside the model. Whole topics are held out, chosen by the hash of their name, never by their content.
"""

import argparse
import hashlib
import json
import lzma
import math
import time
from pathlib import Path

import torch
from model import Config, Decoder, save
from torch import Tensor
from torch.nn.functional import cross_entropy

HERE = Path(__file__).parent
OUT = HERE.parents[1] / "kernels" / "decoder" / "model"
CONTEXT = 256
HELD_OUT_SHARE = 16  # one topic in so many


def texts() -> tuple[bytes, bytes]:
    """Training text and held-out text: topics joined by blank lines."""
    from pydoc_data.topics import topics

    def held_out(name: str) -> bool:
        return hashlib.sha256(name.encode()).digest()[0] % HELD_OUT_SHARE == 0

    def joined(names: list[str]) -> bytes:
        return "\n\n".join(topics[name].strip() for name in names).encode()

    names = sorted(topics)
    return joined([n for n in names if not held_out(n)]), joined([n for n in names if held_out(n)])


def batch_of(text: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    starts = torch.randint(len(text) - CONTEXT - 1, (size,), generator=generator)
    rows = torch.stack([text[s : s + CONTEXT + 1] for s in starts.tolist()])
    return rows[:, :-1], rows[:, 1:]


@torch.no_grad()
def loss_on(model: Decoder, text: Tensor) -> float:
    """Nats per byte over windows of the whole context, half of each window as warm-up for the other half."""
    model.eval()
    half = CONTEXT // 2
    windows = torch.stack([text[i : i + CONTEXT + 1] for i in range(0, len(text) - CONTEXT - 1, half)])
    total = 0.0
    for rows in torch.split(windows, 32):
        logits = model(rows[:, :-1])[:, half:]
        total += cross_entropy(logits.flatten(0, 1), rows[:, half + 1 :].flatten(), reduction="sum").item()
    model.train()
    return total / (len(windows) * half)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.use_deterministic_algorithms(True)
    generator = torch.Generator().manual_seed(args.seed)
    train_bytes, held_bytes = texts()
    train, held = (torch.tensor(list(b), dtype=torch.long) for b in (train_bytes, held_bytes))
    model = Decoder(Config(), dropout=0.05)
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.02 if "embed" in name else weight.shape[1] ** -0.5, generator=generator)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    gains = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}], lr=1.0, betas=(0.9, 0.98)
    )

    def rate(step: int) -> float:
        warm = min(1.0, (step + 1) / 100)
        return 3e-3 * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / args.steps)))

    OUT.mkdir(parents=True, exist_ok=True)
    start, best, running = time.monotonic(), math.inf, None
    with (HERE / "train.log").open("w") as log:
        for step in range(args.steps):
            for group in optimizer.param_groups:
                group["lr"] = rate(step)
            inputs, targets = batch_of(train, args.batch, generator)
            loss = cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
            if (step + 1) % 100 == 0 or step + 1 == args.steps:
                held_loss = loss_on(model, held)
                line = {
                    "step": step + 1,
                    "train_nats_per_byte": round(running, 4),
                    "held_out_nats_per_byte": round(held_loss, 4),
                    "learning_rate": round(rate(step), 6),
                    "seconds": round(time.monotonic() - start),
                }
                print(json.dumps(line), file=log, flush=True)
                if held_loss < best:
                    best = held_loss
                    save(model, OUT / "model.safetensors")
    (OUT / "heldout.txt").write_bytes(held_bytes)
    (OUT / "train.txt.xz").write_bytes(lzma.compress(train_bytes, preset=9))


if __name__ == "__main__":
    main()
