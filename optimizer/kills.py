"""Did somebody else kill a compiler, or a process that it had started? Then nothing is known of what it worked on."""

import re
import signal

_KILLS = (signal.SIGKILL, signal.SIGTERM)
_SAID = re.compile(
    r"(Killed|Terminated) signal terminated program|unable to execute command: (Killed|Terminated)"
    r"|(terminated with|ended by|died due to) signal (9|15)\b|ended with SIG(KILL|TERM)"
)
"""What is said of it by g++, by clang++, by collect2 and lto-wrapper, by nvcc, by targets/cuda/nvrtc.py and
targets/torch/worker.py."""


def tells_of_a_kill(said: str) -> bool:
    return _SAID.search(said) is not None


def killed(status: int | None, said: str) -> bool:
    """Whether a tool that ended in this way was, as its status or what it said tells.

    status: negative for a signal, 128 + signal as a shell tells it; None where a time limit ended the tool.
    """
    return bool(status) and (any(status in (-k, 128 + k) for k in _KILLS) or tells_of_a_kill(said))
