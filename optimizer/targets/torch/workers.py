"""How does the search start a worker and talk to it? Through the fork server that has torch imported."""

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from optimizer.forkserver import ForkServer, NotStartedError
from optimizer.process import Conversation, adopted, request_of
from optimizer.space import Json
from optimizer.trial import Reason, TrialError

WORKER = "optimizer.targets.torch.worker"
WATCH_S = 0.05
MAX_FILES = 64 << 30  # bytes of a worker's files, of one and together: packages hold the weights
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",  # NumPy's: its threads would be there before the fork
    "TORCHINDUCTOR_COMPILE_THREADS": "1",  # no pool of compiling processes: each worker pays for its own
    "TORCH_WARM_POOL": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}


class Zygote:
    """A fork server, started at the first request. Many threads may ask it. A copy of it has not started."""

    def __init__(self, modules: Sequence[str] = ("torch",)) -> None:
        self.modules = tuple(modules)
        command = (sys.executable, "-m", "optimizer.targets.torch.zygote", "{socket}", *self.modules)
        self.server = ForkServer(command, ENVIRONMENT, f"A model of torch (it imports {', '.join(self.modules)})")

    def __reduce__(self) -> tuple[Any, ...]:
        return (Zygote, (self.modules,))

    @contextlib.contextmanager
    def worker(
        self,
        document: Json,
        environment: Mapping[str, str],
        folder: str,
        timeout_s: float,
        memory_bytes: int,
    ) -> Iterator[Conversation]:
        """A worker that is given `document`, within its limits. Raises TrialError(CRASH) where it can't be started."""
        request = request_of(environment, folder, memory_bytes, (MAX_FILES, MAX_FILES), reserves=True, watch_s=WATCH_S)
        request |= {"module": WORKER, "document": document}
        with contextlib.ExitStack() as stack:
            stderr = stack.enter_context(tempfile.TemporaryFile())
            try:
                child = stack.enter_context(self.server.child(request, stderr, timeout_s))
            except NotStartedError as error:
                raise TrialError(Reason.CRASH, f"the fork server started no worker: {error}") from None
            stack.enter_context(adopted(child.pid))
            yield Conversation(child, stderr, timeout_s)

    def close(self) -> None:
        """Ends the server and its workers."""
        self.server.close()
