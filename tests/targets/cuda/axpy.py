"""A launch.py for tests: y = a x, in one phase or two, right or wrong, with a case for every failure."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from optimizer.space import Value
from optimizer.targets.cuda.plan import Block, Case, Compared, Launch, Work
from optimizer.trial import Reason, TrialError

A = 2.5


class Operation:
    def __init__(self, options: Mapping[str, str], files: Mapping[str, Path], knobs: Mapping[str, Value]) -> None:
        self.n = int(options.get("n", "1000"))
        self.kernel = str(knobs.get("kernel", options.get("kernel", "axpy")))
        self.shared_bytes = int(options.get("shared_bytes", "0"))
        self.extra_bytes = int(options.get("extra_bytes", "0"))
        if self.kernel == "hungry":
            self.kernel, self.extra_bytes = "axpy", 1 << 42
        self.expected = float(options.get("expected", str(A)))
        self.phases = tuple(options.get("phases", "run").split(","))
        self.block = int(str(knobs.get("block", 128)))
        if self.n < 1:
            raise TrialError(Reason.REJECTED, f"n={self.n} is not at least 1")
        print("this goes to stderr")

    @property
    def macros(self) -> Mapping[str, int]:
        return {"BLOCK_THREADS": self.block}

    @property
    def blocks(self) -> Mapping[str, Block]:
        return {self.kernel: Block(self.block, self.shared_bytes)}

    @property
    def tensor_cores(self) -> bool:
        return False

    def small(self) -> Sequence[Case]:
        return [self._case("small", 7)]

    def full(self) -> Sequence[Case]:
        return [self._case("whole", self.n), self._case("odd", self.n + 1)]

    def scenario(self) -> Work:
        return self._work(self.n)

    def readings(self, seconds: Mapping[str, float]) -> Mapping[str, float]:
        found = {"throughput_ips": 1 / sum(seconds.values())}
        if "decode" in seconds:
            found["tokens_per_s"] = 8 / seconds["decode"]
        return found

    @property
    def facts(self) -> Mapping[str, float]:
        return {"flop": float(self.n), "bytes_moved": 8.0 * self.n}

    def _work(self, n: int) -> Work:
        x = np.arange(n, dtype=np.float32)
        grid = (-(-n // self.block), 1, 1)
        arguments = ("y", "x", np.float32(A), np.int32(n))
        launch = Launch(self.kernel, grid, (self.block, 1, 1), arguments, self.shared_bytes)
        buffers = {"x": x, "y": np.full(n, np.nan, np.float32)}
        if self.extra_bytes:
            buffers["extra"] = np.broadcast_to(np.int8(0), (self.extra_bytes,))
        return Work(buffers, dict.fromkeys(self.phases, (launch,)), ("y",))

    def _case(self, name: str, n: int) -> Case:
        expected = self.expected * np.arange(n, dtype=np.float64)
        judge = Compared("y", expected, quality={"accuracy": 0.5})
        return Case(name, self._work(n), judge, {"max_rel_error": 1e-6})
