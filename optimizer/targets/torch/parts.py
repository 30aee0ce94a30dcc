"""What do the parts of a torch model's trial promise each other? Task, transforms and backend, seen from the worker.

    Task.load() ──► prune ──► quantise ──► layout, device ──► Backend.build ──► folder        (the building worker)
                                                              Backend.load  ──► Calls         (the running worker)
    Calls ──► Task.answers ──► Task.judge                     verify
    Calls ──► Task.scenario                                   one timed reading

Everything below happens inside a worker, a process of its own that is forked from one with torch imported (zygote.py);
a part may leak, crash or take too much memory, and costs one trial. Parts raise TrialError for a bad point: REJECTED
where a setting can't work (or was silently ignored, see Backend.evidence), COMPILE where a compiler refuses.
Any other exception is reported as COMPILE while building and as CRASH while running, with its traceback as the log.

This module imports nothing heavy: the process of the search reads it too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from optimizer.space import Json, Value
from optimizer.trial import Check

if TYPE_CHECKING:
    from torch import Tensor, nn

Knobs = Mapping[str, Value]
"""A point. Parts read the knobs that they own and take a missing one for its default (conf/space/torch_*.yaml)."""

Inputs = tuple["Tensor", ...]
"""Positional arguments of a module's forward. State (a key-value cache) goes in as tensors and comes out as tensors."""

Outputs = "Tensor | tuple[Tensor, ...]"
"""What a forward returns: a tensor or a flat tuple of tensors; nothing else crosses a backend."""

Call = Callable[..., "Tensor | tuple[Tensor, ...]"]
Entries = Mapping[str, Inputs]
"""The shapes that a model is compiled for, by name, with example values: {"forward": (x,)} for a plain net,
{"prefill": …, "decode": …} for a language model. All entries are calls of the same module's forward."""

Calls = Mapping[str, Call]
"""A compiled model: one callable an entry, which takes tensors of that entry's shapes, types and device."""

Answers = Mapping[str, "Tensor"]
"""What a model said about the data by which its quality is judged: named tensors on the processor, as small as will do.
They are cached as safetensors: contiguous, no aliases."""

ANY_ERROR = 1e30
"""The tolerance of max_rel_error where the model itself is changed, so that no error proves a wrong computation."""

FP32_TOLERANCE = 1e-3
"""The largest max_rel_error of a right computation in float32: sums in another order, fused, vectorised."""

BACKEND, QUANTIZE, PRUNE, THREADS, CHANNELS_LAST = "backend", "quantize", "prune", "threads", "channels_last"
"""Knobs that more than one part reads. quantize and prune are "none" where they do nothing; threads 0 is torch's own
choice; the baseline is backend=eager with all the others so."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one scenario did, beside the wall and CPU time that the worker takes around it (as in kernels/harness.h).

    latency_s is the time of one batch, throughput_ips counts inferences.
    """

    inferences: float = 1.0  # in a batch
    batches: float = 1.0  # in the scenario
    metrics: Mapping[str, float] = field(default_factory=dict)  # ttft_s, tokens_per_s, prefill_tokens_per_s, …


@dataclass(frozen=True, slots=True)
class Carried:
    """What a task takes along into an export, so that it can be made again there."""

    options: Mapping[str, Json] = field(default_factory=dict)  # over its own; source/NAME is a file below
    files: Mapping[str, bytes] = field(default_factory=dict)  # by name, in the export's folder source


class Task(Protocol):
    """What a model is for: its weights, the shapes it is compiled for, what is timed and how its answers are judged.

    Made by a line in tables.py from the target's options, the point (batch, prompt_tokens, …) and the device.
    """

    def content(self) -> str:
        """A hash of all that the reference answers depend on: weights, texts, shapes, seeds. Fast: no forward."""
        ...

    def load(self) -> "nn.Module":
        """The unmodified model: float32, eval mode, on the processor, no gradients. Its forward takes and returns
        tensors only (wrap what does not). The same weights every time."""
        ...

    def entries(self) -> Entries:
        """On the device; the same values every time."""
        ...

    def calibration(self) -> Sequence[Inputs]:
        """Inputs for static quantisation and activation-aware pruning, on the processor, from data that `answers`
        never sees. Each is shaped as one entry or, where the module takes them, larger."""
        ...

    def scenario(self, calls: Calls) -> Reading:
        """ONE reading's work: a batch, or a prompt and what is generated after it. It runs without gradients; on a GPU
        the worker waits for the device before and after, and the task does so where it times a part itself."""
        ...

    def answers(self, calls: Calls) -> Answers:
        """Runs the quality data (never the calibration's) through the model."""
        ...

    def carried(self) -> Carried:
        """What an export needs beside the built model so that `entries`, `answers`, `judge` and `scenario` can be had
        where it is verified, and `load` gives a net of the same shapes there."""
        ...

    def judge(self, answers: Answers, reference: Answers) -> Check:
        """errors: max_rel_error against the reference (the unmodified model run eagerly in float32); quality:
        top1_agreement_pct, and perplexity or accuracy and quality_loss_pct where the weights are trained. For nets
        without trained weights quality_loss_pct is the points of top-1 agreement lost.

        The worker holds max_rel_error against the greatest tolerance of the transforms and the backend; errors by
        other names must be 0. NaN is a wrong answer.
        """
        ...


@dataclass(frozen=True)
class Job:
    """One point of one task in one worker."""

    task: Task
    knobs: Knobs
    device: str  # cpu, cuda
    folder: Path  # the artifact's own: caches and packages go here
    seed: Path  # what depends on the machine alone and every trial may begin with (backends/options.py)
    module: (
        "Callable[[], nn.Module]"  # loaded, transformed, on the device, in its memory layout; made at the first call
    )
    entries: Entries  # task.entries()


@dataclass(frozen=True, slots=True)
class Transformed:
    """A changed model. It takes and returns the same shapes and types as the original: casts are inside it."""

    module: "nn.Module"
    facts: Mapping[str, float] = field(default_factory=dict)  # sparsity_pct, recovery_s, …; the worker adds model_bytes
    notes: Mapping[str, Json] = field(default_factory=dict)  # evidence in words: what became of which layer


class Transform(Protocol):
    """A change of the model itself before it is compiled: prune.py, then quantize.py (tables.TRANSFORMS is the order).

    Knobs of its own beside the one of its name: conf/space/torch_prune.yaml, torch_quantize.yaml.
    """

    def active(self, knobs: Knobs) -> bool:
        """Whether it does anything at this point."""
        ...

    def values(self) -> Sequence[str]:
        """All values that its knob may have."""
        ...

    def missing(self, value: str, device: str) -> str | None:
        """Why a value of its knob can't work here and how to make it, None where it works. Runs in a probing worker
        before trial 0 and really tries it on a layer or two, within about a second."""
        ...

    def tolerance(self, knobs: Knobs) -> float:
        """The largest max_rel_error of a right computation; ANY_ERROR where only the quality can judge it."""
        ...

    def apply(self, module: "nn.Module", task: Task, knobs: Knobs, folder: Path) -> Transformed:
        """Changes a freshly loaded module (it may do so in place), on the processor. What took long (importances, a
        recovery's weights) is left in `folder` as JSON and safetensors for `restore`. Raises TrialError(REJECTED)
        where nothing was changed though something was asked for."""
        ...

    def restore(self, module: "nn.Module", task: Task, knobs: Knobs, folder: Path) -> Transformed:
        """The same of what `apply` left in `folder`: same weights, quickly."""
        ...


@dataclass(frozen=True, slots=True)
class Built:
    """What a cold build left in the folder.

    `code`: a hash of the code that will run, "" where it can't be told. Points that share it are measured once where
    all knobs agree but those in `coded`: knobs whose whole effect is the code.
    """

    code: str = ""
    facts: Mapping[str, float] = field(default_factory=dict)  # graphs, graph_breaks, binary_bytes, …
    notes: Mapping[str, Json] = field(default_factory=dict)  # evidence in words; kept in the artifact's log
    coded: frozenset[str] = frozenset()


class Backend(Protocol):
    """What turns a module into callables: one file each in backends/, one line each in tables.BACKENDS."""

    def missing(self, device: str) -> str | None:
        """Why it can't work here and how to make it, None where it may; looks, and builds nothing: the probing worker
        then really builds a small net with it."""
        ...

    def quantizes(self) -> frozenset[str]:
        """Values of the knob `quantize` that it does itself (static int8 of ONNX Runtime): then the transform of that
        name leaves the model alone, and `build` does it, with task.calibration()."""
        ...

    def tolerance(self, knobs: Knobs) -> float:
        """The largest max_rel_error that it may add at this point: FP32_TOLERANCE where it computes in float32."""
        ...

    def build(self, job: Job) -> Built:
        """Compiles cold, for all entries, and calls each once. The worker times it: that is compile_time_s. What
        `load` needs is left in job.folder. Raises TrialError where a setting did not take effect."""
        ...

    def load(self, job: Job) -> Calls:
        """In a new worker: the callables, each called once, from what `build` left. The worker times it: that is
        compile_warm_s. job.module() costs the load of the model; a backend that needs no module does not call it."""
        ...

    def evidence(self, job: Job) -> Mapping[str, float]:
        """What proves that the setting took effect: graphs, graph_breaks, recompiles, cache_hits, cache_misses,
        threads. Asked after `load`, after verifying, and after each block of readings (cheap). Raises
        TrialError(REJECTED) where it fell back to something else: that point is failed, not slow."""
        ...
