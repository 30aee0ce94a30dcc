"""What works here? A backend builds and runs a small net, a transform changes a layer or two, in a worker each."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from optimizer.space import Json
from optimizer.targets.torch.backends import options
from optimizer.targets.torch.parts import BACKEND, FP32_TOLERANCE, Job
from optimizer.targets.torch.plain import FORWARD, PlainTask, max_rel_error
from optimizer.targets.torch.tables import BACKENDS, TRANSFORMS

SEEDING = "compile"  # the backend whose probe leaves what every cache of Inductor begins with


@dataclass(frozen=True)
class Asked:
    knob: str
    value: str
    device: str
    folder: Path
    cache: Path


def missing(document: Mapping[str, Json]) -> str | None:
    """Why a value of a knob can't work on a device, None where it works."""
    asked = Asked(
        str(document["knob"]),
        str(document["value"]),
        str(document["device"]),
        Path(document["folder"]),
        Path(document["cache"]),
    )
    if asked.knob == BACKEND:
        return _backend_missing(asked)
    return TRANSFORMS[asked.knob]().missing(asked.value, asked.device)


def _backend_missing(asked: Asked) -> str | None:
    offer = BACKENDS[asked.value]
    if (why := offer.missing(asked.device)) is not None:
        return why
    backend = offer.make()
    if (why := backend.missing(asked.device)) is not None:
        return why
    seed = options.seed_of(asked.cache)
    if asked.value != SEEDING:
        options.sown(asked.folder, seed)
    net = _small_net().to(asked.device)
    inputs = (torch.linspace(-1, 1, 4 * 16).view(4, 16).to(asked.device),)
    task = PlainTask("probe", _small_net, inputs, (inputs,), ((inputs[0].cpu(),),))
    job = Job(task, {}, asked.device, asked.folder, seed, lambda: net, task.entries())
    backend.build(job)
    answer = backend.load(job)[FORWARD](*inputs)
    mine = answer[0] if isinstance(answer, tuple | list) else answer
    if not max_rel_error(mine.float().cpu(), net(*inputs).cpu()) < 10 * FP32_TOLERANCE:
        return "a small net that it compiled gives wrong answers here"
    cache = asked.folder / options.CACHE
    if asked.value == SEEDING and cache.is_dir() and not seed.exists():
        options.harvested(cache, seed)
    shutil.rmtree(cache, ignore_errors=True)
    return None


def _small_net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 8), nn.Softmax(-1))
    return net.eval().requires_grad_(requires_grad=False)
