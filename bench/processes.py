"""Processes that the bench starts: each on its own core and port, ended by its process id."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from bench.cores import pin

ROOT = Path(__file__).resolve().parents[1]
START_WITHIN_S = 20.0


class BenchError(Exception):
    """Something that is measured does not run; the message says what and why."""


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """A clean environment: none of the caller's settings of GEKO counts here."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), **(extra or {})}


def python(module: str, *arguments: str) -> list[str]:
    """The command line of one of our modules."""
    return [sys.executable, "-m", module, *arguments]


@asynccontextmanager
async def running(
    name: str,
    command: Sequence[str],
    *,
    core: int,
    port: int,
    folder: Path,
    env: Mapping[str, str] | None = None,
    within_s: float = START_WITHIN_S,
) -> AsyncIterator[int]:
    """A server that listens on the port while the context is open; gives its process id. Raises BenchError.

    within_s: it must listen by then.
    """
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=folder,
            env=environment(env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        pin(process.pid, [core])
        try:
            await listening(name, process, port, log.fileno(), within_s)
            yield process.pid
        finally:
            await end(process)


async def listening(
    name: str, process: asyncio.subprocess.Process, port: int, log: int, within_s: float = START_WITHIN_S
) -> None:
    """Wait until the process listens on the port; log: the file of what it says. Raises BenchError."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while loop.time() < deadline and process.returncode is None:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.03)
    said = os.pread(log, 1_000_000, 0).decode(errors="replace").strip()[-4000:]
    print(said, file=sys.stderr)
    raise BenchError(f"{name} did not start: {said.rpartition(chr(10))[2]}")


async def end(process: asyncio.subprocess.Process) -> None:
    """Ask a process to stop; kill it when it takes long."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), 5)
    except TimeoutError:
        process.kill()
        await process.wait()
