"""Real processes for end-to-end tests: GEKO and a stand-in LibreChat, each on a free port, ended by their PID."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LISTENING = re.compile(r"listening on (http://\S+)")
START_TIMEOUT_S = 30.0

JWT_SECRET, JWT_REFRESH_SECRET, SHADOW_SECRET, AUTH_SECRET, ENCRYPTION_SECRET = (
    hashlib.sha256(name).hexdigest() for name in (b"jwt", b"refresh", b"shadow", b"auth", b"encryption")
)


@dataclass(frozen=True)
class Running:
    """A server process."""

    url: str
    pid: int
    log: Path

    def log_text(self) -> str:
        """All that it has written."""
        return self.log.read_text()


@contextmanager
def running(arguments: list[str], environ: Mapping[str, str], log: Path) -> Iterator[Running]:
    """Start `python -m …`, wait until it says where it listens, end it with SIGTERM."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("GEKO_", "LIBRECHAT_"))
    }
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            env={**clean, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **environ},
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
        )
    try:
        yield Running(wait_for_address(process, log), process.pid, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for_address(process: subprocess.Popen[bytes], log: Path) -> str:
    """The address that the process prints when it is ready."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        found = LISTENING.search(log.read_text())
        if found:
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise AssertionError(f"the server did not start:\n{log.read_text()}")


def geko_environment(dsn: str, librechat_url: str, **settings: str) -> dict[str, str]:
    """The environment of a GEKO under test. The limits are wide: the tests come from one address."""
    return {
        "DATABASE_URL": dsn,
        "LIBRECHAT_URL": librechat_url,
        "LIBRECHAT_JWT_SECRET": JWT_SECRET,
        "LIBRECHAT_JWT_REFRESH_SECRET": JWT_REFRESH_SECRET,
        "GEKO_LIBRECHAT_SHADOW_SECRET": SHADOW_SECRET,
        "GEKO_AUTH_JWT_SECRET": AUTH_SECRET,
        "GEKO_AUTH_ENCRYPTION_SECRET": ENCRYPTION_SECRET,
        "GEKO_SERVER_PORT": "0",
        "GEKO_FILTER_RATE_LIMIT_LIMIT": "100000",
        "GEKO_AUTH_PASSWORD_CPU_SHARE": "64",
        "GEKO_AUTH_PASSWORD_QUEUE": "1000",
        **settings,
    }
