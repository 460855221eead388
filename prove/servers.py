"""The processes of the proof, which can be killed and started again on the same port."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from bench.processes import ROOT, end, environment, free_port, listening, python
from geko_proxy.storage.embedded import EmbeddedPostgres
from geko_proxy.storage.system_user import SystemUser

PGBOUNCER = """
[databases]
geko = host={sockets} port=5432 dbname=postgres user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 20
max_client_conn = 500
query_wait_timeout = 5
server_login_retry = 1
ignore_startup_parameters = extra_float_digits
"""


@dataclass
class Server:
    """One server process. as_nobody: for programs that refuse to run as root."""

    name: str
    command: Sequence[str]
    port: int
    folder: Path
    env: Mapping[str, str] = field(default_factory=dict)
    as_nobody: bool = False
    _process: asyncio.subprocess.Process | None = None
    _log: IO[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start it and wait until it listens. Raises BenchError."""
        self._log = (self.folder / f"{self.name}.log").open("a+b")
        self._process = await asyncio.create_subprocess_exec(
            *self.command,
            cwd=self.folder,
            env=environment(self.env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            preexec_fn=nobody if self.as_nobody and os.geteuid() == 0 else None,
        )
        await listening(self.name, self._process, self.port, self._log.fileno())

    async def kill(self) -> None:
        """kill -9: it gets no chance to clean up."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def stop(self) -> None:
        """Ask it to stop, and wait."""
        if self._process is not None:
            await end(self._process)
        if self._log is not None:
            self._log.close()

    def log_text(self) -> str:
        """All that it has written."""
        return (self.folder / f"{self.name}.log").read_text(errors="replace")


def nobody() -> None:
    """Become `nobody`, in the child before the program begins (uvloop has no `user=`)."""
    user = SystemUser.current()
    assert user.uid is not None
    assert user.gid is not None
    os.setgroups([user.gid])
    os.setgid(user.gid)
    os.setuid(user.uid)


class Postgres:
    """An embedded PostgreSQL that can be taken away and brought back."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._server = EmbeddedPostgres()
        self.dsn = ""

    async def start(self) -> None:
        """Start it; its address stays the same."""
        self.dsn = await asyncio.to_thread(self._server.start, self._home)

    async def stop(self) -> None:
        """A fast shutdown, as a restart of the service does it: transactions that run are rolled back."""
        await asyncio.to_thread(self._server.stop)

    @property
    def sockets(self) -> Path:
        """The folder of its unix socket."""
        return Path(self.dsn.rpartition("host=")[2])


def pgbouncer(folder: Path, sockets: Path) -> Server | None:
    """PgBouncer in transaction mode before PostgreSQL; None: it is not installed."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        return None
    port = free_port()
    config = folder / "pgbouncer.ini"
    config.write_text(PGBOUNCER.format(sockets=sockets, port=port))
    SystemUser.current().open_way(config)
    return Server("pgbouncer", [program, str(config)], port, folder, as_nobody=True)


def redis(folder: Path) -> Server | None:
    """Redis without a disk; None: it is not installed."""
    program = shutil.which("redis-server")
    if program is None:
        return None
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    return Server("redis", command, port, folder)


def stand_in(folder: Path, jwt_secret: str, jwt_refresh_secret: str) -> Server:
    """The stand-in for LibreChat; it knows what its provider reported."""
    port = free_port()
    secrets = ["--jwt-secret", jwt_secret, "--jwt-refresh-secret", jwt_refresh_secret]
    return Server(
        "librechat", python("geko_proxy.demo.librechat", "--port", str(port), *secrets), port, folder
    )


def geko(
    name: str,
    folder: Path,
    env: Mapping[str, str],
    *,
    clock_ahead_s: float = 0,
    config: Path = ROOT / "config" / "geko.toml",
) -> Server:
    """One instance of GEKO. clock_ahead_s: how far ahead the clock is that the quota's months are taken from."""
    port = free_port()
    arguments = ("--config", str(config), "serve")
    command = python("geko_proxy", *arguments)
    if clock_ahead_s:
        command = python("prove.clock", str(clock_ahead_s), *arguments)
    return Server(name, command, port, folder, {**env, "GEKO_SERVER_PORT": str(port)})
