"""`geko demo`, which is what `make run` starts: the screen, its two commands as printed, and a clean end."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.e2e.people import read_events
from tests.e2e.processes import ROOT, wait_for_address

LISTENING = "Ctrl-C ends everything."


@pytest.fixture
def home() -> Iterator[Path]:
    """A short path: unix sockets are in it."""
    path = Path(tempfile.mkdtemp(prefix="gk-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def start(home: Path, log: Path) -> subprocess.Popen[bytes]:
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("GEKO_", "LIBRECHAT_"))
    }
    environ = {
        **clean,
        "PYTHONPATH": str(ROOT),
        "GEKO_HOME": str(home),
        "GEKO_PORT": "0",
        "PYTHONUNBUFFERED": "1",
    }
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "geko_proxy", "demo"],
            env=environ,
            cwd=home,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    wait_for_address(process, log)
    return process


async def screen_of(log: Path) -> str:
    for _ in range(100):
        if LISTENING in log.read_text():
            return log.read_text()
        await asyncio.sleep(0.05)
    raise AssertionError(log.read_text())


def end(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Ctrl-C; returns the processes that are left."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    process.wait(30)
    _, left = psutil.wait_procs(family, timeout=10)
    return left


async def test_the_printed_commands_work_until_the_quota_is_used_up(home: Path, tmp_path: Path) -> None:
    assert shutil.which("curl"), "curl is needed: apt install curl (.ci/run does)"
    log = tmp_path / "log"
    process = start(home, log)
    try:
        screen = await screen_of(log)
        log_in = re.search(r"^TOKEN=.*?\n\n", screen, re.M | re.S)
        stream = re.search(r"^curl -N .*?\n\n", screen, re.M | re.S)
        assert log_in
        assert stream
        script = log_in[0] + stream[0]
        answers = []
        for _ in range(6):
            shell = await asyncio.create_subprocess_exec("bash", "-c", script, stdout=subprocess.PIPE)
            out, _ = await shell.communicate()
            answers.append(out)
        first = [(event.name, event.json) for event in read_events(answers[0]) if event.data]
        assert [name for name, _ in first].count("token") > 20
        assert first[-1][1]["finishReason"] == "stop"
        endings = [
            read_events(out)[-1].json.get("finishReason") if b"event:" in out else None for out in answers
        ]
        assert "quota_exceeded" in endings
        assert b'"code":"quota_exceeded"' in answers[-1]
        assert b"used up" in answers[-1]
    finally:
        assert end(process) == []
    assert "Traceback" not in log.read_text()
    again = start(home, log)  # what it made is still there
    try:
        assert "0 of 500 tokens left" in await screen_of(log)
    finally:
        assert end(again) == []


async def test_a_port_in_use_is_said_in_one_line(home: Path, tmp_path: Path) -> None:
    listener = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("GEKO_", "LIBRECHAT_"))
    }
    environ = {**clean, "PYTHONPATH": str(ROOT), "GEKO_HOME": str(home), "GEKO_PORT": str(port)}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "geko_proxy", "demo"],
        env=environ,
        cwd=home,
        capture_output=True,
    )
    listener.close()
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert f"can't listen on 127.0.0.1:{port}: Address already in use" in done.stderr.decode()
