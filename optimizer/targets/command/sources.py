"""What lies in a folder of sources, and did somebody write into it?"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from optimizer.errors import ConfigError
from optimizer.space import digest
from optimizer.targets.builds import file_hash

MOST_FILES = 20_000
MOST_BYTES = 2 << 30
SHOWN = 3


@dataclass(frozen=True, slots=True)
class Sources:
    """A folder and the names in it that are left out (as fnmatch patterns, of files and folders at any depth)."""

    folder: Path
    ignore: tuple[str, ...]

    def files(self) -> Iterator[Path]:
        for path, folders, names in os.walk(self.folder):
            folders[:] = sorted(f for f in folders if not self._left_out(f))
            yield from (Path(path, n) for n in sorted(names) if not self._left_out(n))

    def hash(self) -> str:
        """Of all files' names and contents. Raises ConfigError where that would be too much to read."""
        hashes: dict[str, str] = {}
        size = 0
        for path in self.files():
            if not path.is_file():
                continue  # a socket, a link to nowhere
            size += path.stat().st_size
            if len(hashes) >= MOST_FILES or size > MOST_BYTES:
                raise ConfigError(
                    f"target.source={self.folder} holds more than {MOST_FILES:,} files or {MOST_BYTES >> 30} GiB: name "
                    "the folder of the sources alone, or leave names out with target.ignore."
                )
            hashes[path.relative_to(self.folder).as_posix()] = file_hash(path)
        return digest(hashes)

    def stamps(self) -> Mapping[str, tuple[int, int]]:
        """When each file was last written, and its size."""
        found = {}
        for path in self.files():
            try:
                stat = path.lstat()
            except FileNotFoundError:
                continue  # a temporary file of somebody's
            found[path.relative_to(self.folder).as_posix()] = (stat.st_mtime_ns, stat.st_size)
        return found

    def changed(self, before: Mapping[str, tuple[int, int]]) -> str:
        """The files that are not as they were, in words; "" for none."""
        now = self.stamps()
        names = sorted(n for n in {*before, *now} if before.get(n) != now.get(n))
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        return ", ".join(names[:SHOWN]) + more

    def copy(self, to: Path) -> None:
        shutil.copytree(self.folder, to, symlinks=True, ignore=self._ignored)

    def _left_out(self, name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in self.ignore)

    def _ignored(self, folder: str, names: Sequence[str]) -> set[str]:
        return {n for n in names if self._left_out(n)}
