"""The long-lived process in which NVRTC compiles: JSON lines on stdin and stdout, a request and an answer each.

    python -m optimizer.targets.cuda.nvrtc
    {"ready": {"version": "13.0", "archs": ["sm_75", …]}}
    <- {"source": PATH, "options": [WORD, …], "output": PATH, "timeout_s": 60}
    -> {"built": true, "log": "…", "wall_s": 0.05, "cpu_s": 0.05}        the cubin lies at `output`

It imports nothing of the package and ends with its stdin. A fresh process costs 0.3 s, as long as many a compilation;
this one has paid it. But NVRTC 13.0 does not forget everything between two programs: after --restrict or
--Ofast-compile=mid it compiled the next one differently, without those words. So words that are not known to leave no
trace (CLEAN, held true by a test) are compiled in a fork of the process, which costs some 13 ms.
"""

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MAX_LOG = 1 << 20  # characters
WARM_UP = 'extern "C" __global__ void k(float* a) { a[threadIdx.x] = 1.f; }'
CLEAN = (
    *("-D", "-I", "--gpu-architecture=", "--std=", "--time=", "--no-cache", "--maxrregcount=", "--use_fast_math"),
    *("--ftz=", "--prec-div=", "--prec-sqrt=", "--fmad=", "--extra-device-vectorization", "--generate-line-info"),
    *("--ptxas-options=", "--minimal", "--split-compile="),
)


def compiled(nvrtc: Any, source: str, name: str, options: Sequence[str]) -> tuple[bytes | None, str, float]:
    """The cubin (None where it was refused), the log and the seconds that compiling took."""
    error, program = nvrtc.nvrtcCreateProgram(source.encode(), name.encode(), 0, [], [])
    if error != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        return None, f"NVRTC takes no program: {error.name}", 0.0
    start = time.perf_counter()
    (error,) = nvrtc.nvrtcCompileProgram(program, len(options), [word.encode() for word in options])
    seconds = time.perf_counter() - start
    _, size = nvrtc.nvrtcGetProgramLogSize(program)
    log = bytes(size)
    nvrtc.nvrtcGetProgramLog(program, log)
    told = log.rstrip(b"\0").decode(errors="replace")[:MAX_LOG]
    cubin: bytes | None = None
    if error == nvrtc.nvrtcResult.NVRTC_SUCCESS:
        _, size = nvrtc.nvrtcGetCUBINSize(program)
        cubin = bytes(size)
        nvrtc.nvrtcGetCUBIN(program, cubin)
    else:
        told = f"{told.rstrip()}\n{error.name}"
    nvrtc.nvrtcDestroyProgram(program)
    return cubin or None, told, seconds


def answer(nvrtc: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Compiles here. A compiler that hangs is ended by its alarm even where the process that asked is gone."""
    signal.setitimer(signal.ITIMER_REAL, float(request["timeout_s"]))
    before = resource.getrusage(resource.RUSAGE_SELF)
    path = Path(request["source"])
    cubin, log, seconds = compiled(nvrtc, path.read_text(encoding="utf-8"), path.name, request["options"])
    after = resource.getrusage(resource.RUSAGE_SELF)
    signal.setitimer(signal.ITIMER_REAL, 0)
    if cubin is not None:
        Path(request["output"]).write_bytes(cubin)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"built": cubin is not None, "log": log, "wall_s": seconds, "cpu_s": cpu_s}


def answer_apart(nvrtc: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Compiles in a fork, whose state is lost with it."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.close(read)
        with os.fdopen(write, "w", encoding="utf-8") as pipe:
            json.dump(answer(nvrtc, request), pipe)
        os._exit(0)
    os.close(write)
    with os.fdopen(read, encoding="utf-8") as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    if (code := os.waitstatus_to_exitcode(status)) == 0:
        return dict(json.loads(told))
    how = signal.Signals(-code).name if code < 0 else f"status {code}"
    return {"built": False, "log": f"the compiler ended with {how}", "wall_s": 0.0, "cpu_s": 0.0}


def version_of(nvrtc: Any) -> str:
    _, major, minor = nvrtc.nvrtcVersion()
    return f"{major}.{minor}"


def say(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main() -> None:
    from cuda.bindings import nvrtc  # type: ignore[import-not-found,import-untyped,unused-ignore]

    try:
        _, archs = nvrtc.nvrtcGetSupportedArchs()
        compiled(nvrtc, WARM_UP, "warm_up.cu", [f"--gpu-architecture=sm_{archs[-1]}"])
        ready: dict[str, Any] = {"ready": {"version": version_of(nvrtc), "archs": [f"sm_{a}" for a in archs]}}
    except (RuntimeError, OSError) as error:  # what the bindings raise where the library is not to be found
        ready = {"error": {"reason": "rejected", "message": f"libnvrtc can't be loaded: {error}"}}
    say(ready)
    for line in sys.stdin:
        request = json.loads(line)
        clean = all(word.startswith(CLEAN) for word in request["options"])
        say((answer if clean else answer_apart)(nvrtc, request))


if __name__ == "__main__":
    main()
