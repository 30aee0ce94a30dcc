"""How does a point become a job in a worker? The task is made, its model loaded, changed, moved and laid out."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from optimizer.space import Json, digest
from optimizer.targets.torch.backends.options import seed_of
from optimizer.targets.torch.layers import stored, stored_bytes
from optimizer.targets.torch.layout import ChannelsLast
from optimizer.targets.torch.parts import (
    BACKEND,
    CHANNELS_LAST,
    QUANTIZE,
    THREADS,
    Answers,
    Backend,
    Job,
    Knobs,
    Task,
    Transform,
)
from optimizer.targets.torch.rebuilt import Exported, answers_of
from optimizer.targets.torch.tables import BACKENDS, TASKS, TRANSFORMS
from optimizer.trial import Reason, TrialError


@dataclass
class Work:
    """A point in a worker. `cold`: it is built for the first time, so transforms learn and leave what they learnt."""

    document: Mapping[str, Json]  # task, options, knobs, device, folder, cache
    cold: bool
    facts: dict[str, float] = field(default_factory=dict)
    notes: dict[str, Json] = field(default_factory=dict)

    @property
    def knobs(self) -> Knobs:
        return self.document["knobs"]  # type: ignore[no-any-return]

    @property
    def device(self) -> str:
        return str(self.document["device"])

    @property
    def export(self) -> Path | None:
        """The folder of an exported model, where that is what runs."""
        return Path(self.document["export"]) if "export" in self.document else None

    @property
    def folder(self) -> Path:
        return Path(self.document["folder"])

    @property
    def cache(self) -> Path:
        return Path(self.document["cache"])

    @cached_property
    def task(self) -> Task:
        return self._task(self.knobs)

    def _task(self, knobs: Knobs) -> Task:
        return TASKS[str(self.document["task"])](self.document["options"], knobs, self.device, self.cache)

    @cached_property
    def backend(self) -> Backend:
        if self.export is not None:
            return Exported(self.export)
        return BACKENDS[str(self.knobs.get(BACKEND, "eager"))].make()

    @cached_property
    def transforms(self) -> Mapping[str, Transform]:
        """Those that change the model at this point; a scheme that the backend does itself is not among them."""
        done = self.backend.quantizes()
        made = {name: make() for name, make in TRANSFORMS.items()}
        return {
            name: transform
            for name, transform in made.items()
            if transform.active(self.knobs) and not (name == QUANTIZE and str(self.knobs.get(QUANTIZE)) in done)
        }

    @property
    def recorded(self) -> Answers | None:
        """What an exported model said when it was exported."""
        return answers_of(self.export, "winner") if self.export is not None else None

    @property
    def tolerance(self) -> float:
        """The largest max_rel_error that anything at this point may show."""
        parts = [transform.tolerance(self.knobs) for transform in self.transforms.values()]
        return max([self.backend.tolerance(self.knobs), *parts])

    @cached_property
    def job(self) -> Job:
        return Job(
            task=self.task,
            knobs=self.knobs,
            device=self.device,
            folder=self.folder,
            seed=seed_of(self.cache),
            module=lambda: self.module,
            entries=self.task.entries(),
        )

    @cached_property
    def module(self) -> nn.Module:
        """The changed model on its device. On the way there, in a cold build, the unmodified model's answers."""
        start = time.perf_counter()
        module = self.task.load()
        self.facts["load_s"] = time.perf_counter() - start
        if self.cold:
            self.reference(module)
        start = time.perf_counter()
        for name, transform in self.transforms.items():
            part = self.folder / name
            part.mkdir(exist_ok=True)
            change = transform.apply if self.cold else transform.restore
            done = change(module, self.task, self.knobs, part)
            module = done.module
            self.facts |= done.facts
            self.notes |= {name: dict(done.notes)}
        if self.transforms:
            self.facts["transform_s"] = time.perf_counter() - start
        self.facts["model_bytes"] = float(stored_bytes(module))
        self.notes["weights"] = weight_types(module)
        module = module.to(self.device).eval()
        if self.knobs.get(CHANNELS_LAST):
            module = ChannelsLast(module).eval()
        return module

    def reference(self, module: nn.Module | None = None) -> Answers:
        """The unmodified model's answers, run eagerly in float32 (its cache too, whichever point comes first); computed
        once and cached by content."""
        if self.export is not None:
            return answers_of(self.export, "baseline")
        key = digest([self.task.content(), self.device])
        path = self.cache / "reference" / f"{key}.safetensors"
        if path.is_file():
            return load_file(path)
        unmodified = self._task({name: value for name, value in self.knobs.items() if name != QUANTIZE})
        module = self.task.load() if module is None else module
        here = module.to(self.device)
        answers = dict(unmodified.answers(dict.fromkeys(unmodified.entries(), here)))
        module.to("cpu")
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{self.folder.name}")
        save_file(answers, aside)
        aside.replace(path)
        return answers


def set_threads(knobs: Knobs) -> None:
    """Before any tensor operation. 0: as many as torch itself takes."""
    if threads := int(knobs.get(THREADS, 0)):
        torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)


def threads_used(knobs: Knobs) -> float:
    """What torch computes with; raises TrialError where it is not what the point asks for."""
    asked, found = int(knobs.get(THREADS, 0)), torch.get_num_threads()
    if asked and asked != found:
        raise TrialError(Reason.REJECTED, f"{asked} threads were asked for and torch uses {found}")
    return float(found)


def weight_types(module: nn.Module) -> Mapping[str, Any]:
    """Bytes of the parameters by the type in which they are stored."""
    found: dict[str, int] = {}
    for parameter in module.parameters():
        for part in stored(parameter):
            kind = str(part.dtype).removeprefix("torch.")
            found[kind] = found.get(kind, 0) + part.numel() * part.element_size()
    return found
