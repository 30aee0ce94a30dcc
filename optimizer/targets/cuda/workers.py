"""How do threads share processes that are slow to start and answer many questions?"""

import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimizer.process import Conversation, conversation
from optimizer.trial import Reason, TrialError


@dataclass(frozen=True)
class Worker:
    """A process that has said that it is ready."""

    talk: Conversation
    timeout_s: float
    ready: Mapping[str, Any]
    ending: ExitStack

    @property
    def alive(self) -> bool:
        """False where it has ended meanwhile, as after an interrupt."""
        return self.talk.alive


class Workers:
    """A thread takes an idle process or starts one: there are never more than threads that need one at the same time.
    One that failed to answer is ended, as nobody knows what it would say next."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], memory_bytes: int | None) -> None:
        self._command, self._environment, self._memory_bytes = tuple(command), dict(environment), memory_bytes
        self._idle: list[Worker] = []
        self._lock = threading.Lock()
        self._ended = weakref.finalize(self, _end, self._idle)  # at the latest with this process

    @contextmanager
    def one(self, timeout_s: float) -> Iterator[Worker]:
        """A process for this thread alone. Raises TrialError where it does not start or does not answer."""
        worker = self._taken(timeout_s) or self._started(timeout_s)
        try:
            yield worker
        except BaseException:
            worker.ending.close()
            raise
        with self._lock:
            self._idle.append(worker)

    def close(self) -> None:
        """Ends those that are idle."""
        with self._lock:
            _end(self._idle)

    def _taken(self, timeout_s: float) -> Worker | None:
        while True:
            with self._lock:
                found = next((w for w in reversed(self._idle) if w.timeout_s == timeout_s), None)
                if found is None:
                    return None
                self._idle.remove(found)
            if found.alive:
                return found
            found.ending.close()

    def _started(self, timeout_s: float) -> Worker:
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="optimizer-worker-")))
            talk = stack.enter_context(
                conversation(self._command, self._environment, scratch, timeout_s, self._memory_bytes)
            )
            first = talk.answer()
            if not isinstance(ready := first.get("ready"), dict):
                raise TrialError(
                    Reason.CRASH, f"{self._command[0]} did not say that it is ready but {str(first)[:200]}"
                )
            return Worker(talk, timeout_s, ready, stack.pop_all())


def _end(idle: list[Worker]) -> None:
    while idle:
        idle.pop().ending.close()
