"""The search of executor=slurm: sent into an allocation, awaited, its result shown."""

import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from optimizer.cli import FAILED, INTERRUPTED
from optimizer.config import Composed
from optimizer.config.allocation import allocation_of, words_inside
from optimizer.config.objects import study_of
from optimizer.errors import ConfigError

POLL_S = 1.0


def sent(made: Composed, folders: Sequence[Path], flags: Sequence[str]) -> None:
    """Raises ConfigError where the batch system refuses; SystemExit with the search's exit code."""
    allocation = allocation_of(made)
    from optimizer.executors.allocation import PRINTED, submitted

    studies_dir = Path(str(made.tree["studies_dir"])).absolute()
    study = study_of(made.tree, date.today())
    words = [*words_inside(made), *([] if made.tree["study"] else [f"study={study}"]), *flags]
    words += [word for folder in folders for word in ("--config-dir", str(folder.absolute()))]
    folder = studies_dir / study / "allocation"
    try:
        job = submitted(allocation, words, folder, f"optimizer-{study}")
    except RuntimeError as error:
        raise ConfigError(f"No job can be sent to executor.cluster={allocation.cluster}: {error}") from None
    log = job.paths.stderr
    print(f"job {job.job_id}: {allocation.machines} machines for the study {study}; its log: {log}", file=sys.stderr)
    try:
        while not job.done():
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        print(f"The job {job.job_id} goes on; end it with `scancel {job.job_id}`.", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    if (failure := job.exception()) is not None:
        print(f"error: the job {job.job_id} failed; what it said: {log}\n{failure}", file=sys.stderr)
        raise SystemExit(FAILED)
    print((folder / PRINTED).read_text(encoding="utf-8", errors="replace"), end="")
    raise SystemExit(job.results()[0])
