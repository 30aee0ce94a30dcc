"""How does one get a private PostgreSQL? A cluster in a folder of its own, reached by a socket in it alone."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import create_engine, text

DEBIAN = Path("/usr/lib/postgresql")  # its programs are not on the PATH


def programs() -> Path | None:
    """The folder of initdb and pg_ctl, the newest where there are several; None where there is none."""
    known = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = shutil.which("initdb") or (str(known[-1]) if known else None)
    return Path(found).parent if found else None


class Cluster:
    """Use as a context manager: it is ended, and its folder removed, at the exit.

    It listens on no network address, and its folder can be entered by its owner alone, so it asks for no password.
    PostgreSQL refuses to run as root: root's cluster belongs to the user `postgres`, whom Debian's package makes.
    """

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._user = "postgres" if os.geteuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="pg-"))
        if self._user:
            shutil.chown(self._folder, self._user)
        self.uri = f"postgresql+psycopg2://postgres@/postgres?host={self._folder}"

    def __enter__(self) -> Self:
        try:
            data = str(self._folder / "data")
            self._run("initdb", "-D", data, "-U", "postgres", "--auth=trust", "-E", "UTF8", "--locale=C", "--no-sync")
            network = f"-c listen_addresses='' -k {self._folder}"
            self._run("pg_ctl", "-D", data, "-l", str(self._folder / "log"), "-o", network, "-w", "-t", "120", "start")
        except BaseException:
            shutil.rmtree(self._folder)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self._run("pg_ctl", "-D", str(self._folder / "data"), "-m", "immediate", "-w", "stop")
        finally:
            shutil.rmtree(self._folder)

    def size_bytes(self) -> int:
        """Of the database as PostgreSQL counts it: tables and indexes, without the write-ahead log."""
        engine = create_engine(self.uri)
        with engine.connect() as connection:
            found = connection.execute(text("select pg_database_size('postgres')")).scalar_one()
        engine.dispose()
        return int(found)

    def _run(self, program: str, *words: str) -> None:
        """Raises CalledProcessError with what the program said."""
        out = self._folder / "said"  # a file: a pipe would stay open in the server that pg_ctl leaves behind
        with out.open("w+b") as said:
            done = subprocess.run(
                [str(self._programs / program), *words],
                user=self._user,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, program, out.read_text(errors="replace"))
