"""How does a worker start with torch already imported? By a fork of this process, which imports it once and then waits.

    python -m optimizer.targets.torch.zygote SOCKET MODULE…

It is the fork server of keeper.py, whose requests here name a module and a document for it. No tensor is touched here,
so that no thread of OpenMP and no state of a device is inherited; a fork of a process with threads would be one with
broken locks, and is refused.

The memory of a worker and of the processes that it starts is watched as resident size: torch reserves address space
freely, so a limit on that would refuse what fits. Twenty looks a second let it overshoot by what can be touched in
50 ms, a few hundred MiB. One that takes more is killed, and its stderr says so.
"""

import gc
import json
import os
import socket
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from optimizer.keeper import network, serve, threads_now


def main(words: Sequence[str]) -> int:
    for name in words[1:]:
        import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a worker leaves the shared pages alone
    with socket.socket(fileno=int(words[0])) as asked:
        ready = {"pid": os.getpid(), "threads": threads_now(), "network": network()}
        asked.send(json.dumps({"ready": ready}).encode())
        serve(asked, _worker)
    return 0


def _worker(request: Mapping[str, Any], telling: int) -> int:
    os.close(telling)  # it runs
    tempfile.tempdir = None  # what was found before the fork; TMPDIR is another now
    try:
        return int(import_module(request["module"]).main(request["document"]))
    except BaseException:
        traceback.print_exc()
        raise


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
