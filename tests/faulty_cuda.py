"""A CUDA target whose points fail in every way, for a real GPU and for the stand-in of its driver."""

from pathlib import Path

from simple import LATENCY, recipe_of, strategy_of

from optimizer.config.spaces import space_of
from optimizer.executors.local import LocalExecutor
from optimizer.measure import LiveMeter
from optimizer.protocols import Device
from optimizer.recipe import Budget, Plan
from optimizer.space import Point
from optimizer.study import Bench, search
from optimizer.targets.cuda.compile import Toolchain
from optimizer.targets.cuda.target import CudaTarget, Scenario
from optimizer.targets.native import Limits
from optimizer.trial import Failed, Trial

FOLDER = Path(__file__).parent / "targets" / "cuda"
KINDS = ("axpy", "wrong", "illegal", "hungry", "endless")
REASONS = {"axpy": "measured", "wrong": "wrong", "illegal": "crash", "hungry": "memory", "endless": "timeout"}
SPACE = space_of(
    {
        "kernel": {"domain": f"choice({', '.join(KINDS)})", "option": "kernel", "default": "axpy", "help": "which one"},
        "block": {"domain": "choice(64, 128)", "option": "block", "default": 128, "help": "threads"},
    },
    {},
)


def faulty_target(folder: Path, toolchain: Toolchain, gpu: str, arch: str, timeout_s: float) -> CudaTarget:
    return CudaTarget(
        source=FOLDER / "faulty.cu",
        launch=FOLDER / "axpy.py",
        include=FOLDER,
        scenario=Scenario({"n": "100000"}, flush_l2=False),
        space=SPACE,
        toolchains={toolchain.name: toolchain},
        arch=arch,
        gpu=gpu,
        folder=folder,
        limits=Limits(timeout_s, 8 << 30),
    )


def searched(target: CudaTarget, device: Device) -> list[Trial]:
    """Every way to fail, each followed by one that works."""
    plan = Plan(warmups=1, max_seconds=0.2, drift_every=0, min_samples=6, max_samples=12)
    order = [Point({"kernel": kind, "block": block}) for kind in KINDS for block in (128, 64)]
    works = [p for p in order if p["kernel"] == "axpy"]
    fails = [p for p in order if p["kernel"] != "axpy" and p["block"] == 128]
    recipe = recipe_of(SPACE, plan=plan, start=[works[0], *fails, works[1]])
    strategy = strategy_of(recipe)
    executor = LocalExecutor(1)
    bench = Bench(target, device, executor, LiveMeter(device, plan, LATENCY))
    trials = list(search(recipe, strategy, bench, Budget(trials=len(recipe.start))))
    executor.close()
    return trials


def told(trials: list[Trial]) -> list[tuple[object, str]]:
    return [
        (t.point["kernel"], t.outcome.reason.value if isinstance(t.outcome, Failed) else "measured") for t in trials
    ]
