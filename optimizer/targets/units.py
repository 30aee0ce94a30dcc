"""How does a translation unit become an object file? By the compiler, once for equal content, with ccache or sccache
before it where that is installed and no time is to be told."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from optimizer.process import Done, run_tool
from optimizer.space import digest
from optimizer.targets.builds import file_hash, kept_or_made
from optimizer.targets.cache import BuildCache
from optimizer.targets.sources import canonical
from optimizer.trial import Artifact, Reason, TrialError

HIT = "cache_hit"  # in the line that ccache writes for each call: direct_cache_hit, preprocessed_cache_hit
TIMES = ("compile_time_s", "compile_cpu_time_s")


@dataclass(frozen=True, slots=True)
class Compiler:
    """A C++ compiler of this machine."""

    name: str  # as a knob's value names it: g++, clang++
    path: str
    version: str


@dataclass(frozen=True, slots=True)
class Launcher:
    """ccache or sccache: what is put before a compiler's command and may answer from its own cache."""

    name: str
    path: str

    @property
    def tells_hits(self) -> bool:
        """Whether it says of a call that it was answered from its cache: then no time is told for it."""
        return self.name == "ccache"


def found_launcher() -> Launcher | None:
    """ccache, else sccache, of the PATH."""
    paths = ((name, shutil.which(name)) for name in ("ccache", "sccache"))
    return next((Launcher(name, path) for name, path in paths if path is not None), None)


@dataclass(frozen=True)
class Units:
    """What turns units into objects. folder: where objects go; include: where headers lie."""

    folder: Path
    include: Path
    timeout_s: float
    cache: BuildCache | None = None
    launcher: Launcher | None = None
    memory_bytes: int | None = None  # that a compiler may take; None: all there is

    def place(self, compiler: Compiler, source: Path, read: Mapping[str, str], words: Sequence[str]) -> Path:
        """Where the object of a unit lies, or will: `read` are the hashes of all that it may read."""
        key = digest(["object", source.name, dict(read), compiler.version, list(canonical(words))])
        return self.folder / key / f"{source.stem}.o"

    def object(
        self, compiler: Compiler, source: Path, read: Mapping[str, str], words: Sequence[str], *, fresh: bool = False
    ) -> Artifact:
        """Raises TrialError: COMPILE, TIMEOUT. compile_time_s is absent where a launcher had the object already."""
        path = self.place(compiler, source, read, words)

        def made(scratch: Path, place: Path) -> Artifact:
            command = (compiler.path, *words, f"-I{self.include}", "-c", str(source), "-o", path.name)
            done, hit = self._run(command, scratch, fresh=fresh)
            times = {} if hit else dict(zip(TIMES, (done.wall_s, done.cpu_s), strict=True))
            return Artifact(
                key=place.name,
                code_key=file_hash(scratch / path.name),
                path=str(place / path.name),
                command=command,
                log=done.output,
                facts=times,
            )

        return kept_or_made(self.folder, path.parent.name, made, fresh=fresh, cache=self.cache)

    def _run(self, command: Sequence[str], scratch: Path, *, fresh: bool) -> tuple[Done, bool]:
        """The finished compiler, and whether a launcher answered in its place."""
        if self.launcher is None or fresh:
            return compiled(command, self.timeout_s, scratch, self.memory_bytes), False
        log = scratch / "launcher.log"
        with_log = ("env", f"CCACHE_STATSLOG={log}", self.launcher.path, *command)
        done = compiled(with_log, self.timeout_s, scratch, self.memory_bytes)
        hit = HIT in log.read_text(encoding="utf-8") if log.exists() else False
        log.unlink(missing_ok=True)
        return done, hit or not self.launcher.tells_hits


def compiled(command: Sequence[str], timeout_s: float, folder: Path, memory_bytes: int | None = None) -> Done:
    """A compiler that did its work. Raises TrialError: COMPILE, TIMEOUT, MEMORY."""
    done = run_tool(command, timeout_s, folder, memory_bytes)
    log = f"$ {' '.join(command)}\n{done.output}"
    if done.status is None:
        raise TrialError(Reason.TIMEOUT, f"the compiler took more than {timeout_s:g} s\n{log}")
    if done.broke == "memory":
        raise TrialError(Reason.MEMORY, log)
    if done.status != 0:
        raise TrialError(Reason.COMPILE, log, again=done.killed)
    return done
