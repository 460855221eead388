"""The embedded PostgreSQL, also after unclean ends and with long paths."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from geko_proxy.errors import StoreError
from geko_proxy.storage import embedded
from geko_proxy.storage.embedded import EmbeddedPostgres, process_name, read_postmaster
from geko_proxy.storage.system_user import SystemUser

# Starts a server, leaves a mark in it, says so, and waits to be killed.
START_AND_WAIT = """
import sys, pathlib
from geko_proxy.storage.embedded import EmbeddedPostgres
print(EmbeddedPostgres().start(pathlib.Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """A home in which initdb has run; the tests work on copies, because initdb takes a second."""
    home = Path(tempfile.mkdtemp(prefix="geko-"))
    server = EmbeddedPostgres()
    server.start(home)
    server.stop()
    yield home
    shutil.rmtree(home)


@pytest.fixture
def home(cluster: Path) -> Iterator[Path]:
    parent = Path(tempfile.mkdtemp(prefix="geko-"))
    home = parent / "home"
    subprocess.run(["cp", "-a", str(cluster), str(home)], check=True)
    yield home
    shutil.rmtree(parent)


async def ask(dsn: str, sql: str = "select 1") -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def test_starts_stops_and_keeps_the_data(home: Path) -> None:
    server = EmbeddedPostgres()
    await ask(server.start(home), "create table kept (n int)")
    pid = read_postmaster(home / "postgres")[0]
    server.stop()
    assert process_name(pid) is None
    server.stop()
    await ask(server.start(home), "select count(*) from kept")
    server.stop()


async def test_a_second_start_shares_the_server_and_does_not_stop_it(home: Path) -> None:
    first, second = EmbeddedPostgres(), EmbeddedPostgres()
    dsn = first.start(home)
    try:
        assert second.start(home) == dsn
        second.stop()
        assert await ask(dsn) == 1
    finally:
        first.stop()
    with pytest.raises(OSError, match=r"No such file|refused"):
        await ask(dsn)


async def test_takes_over_the_server_of_a_killed_process(home: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", START_AND_WAIT, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert owner.stdout is not None
    assert owner.stdin is not None
    assert owner.stdout.readline()
    owner.kill()
    owner.wait()
    owner.stdout.close()
    owner.stdin.close()
    pid = read_postmaster(home / "postgres")[0]
    server = EmbeddedPostgres()
    assert await ask(server.start(home)) == 1
    server.stop()
    assert process_name(pid) is None


async def test_survives_a_killed_postmaster(home: Path) -> None:
    server = EmbeddedPostgres()
    await ask(server.start(home), "create table kept (n int)")
    os.kill(read_postmaster(home / "postgres")[0], signal.SIGKILL)
    server.stop()
    again = EmbeddedPostgres()
    await ask(again.start(home), "select count(*) from kept")
    again.stop()


async def test_survives_a_process_id_that_belongs_to_another_program_now(home: Path) -> None:
    pid_file = home / "postgres" / "postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n{home / 'postgres'}\n0\n5432\n{home / 'postgres'}\n\n0 0\nready\n")
    shutil.chown(pid_file, (home / "postgres").stat().st_uid)
    server = EmbeddedPostgres()
    assert await ask(server.start(home)) == 1
    server.stop()


async def test_an_interrupted_initdb_is_begun_again() -> None:
    home = Path(tempfile.mkdtemp(prefix="geko-"))
    (home / "postgres.new").mkdir()
    (home / "postgres.new" / "PG_VERSION").write_text("half done")
    server = EmbeddedPostgres()
    try:
        assert await ask(server.start(home)) == 1
    finally:
        server.stop()
        shutil.rmtree(home)


async def test_a_path_too_long_for_a_socket(home: Path) -> None:
    deep = home.parent / ("d" * 100)
    home.rename(deep)
    server = EmbeddedPostgres()
    dsn = server.start(deep)
    sockets = Path(dsn.partition("host=")[2])
    try:
        assert await ask(dsn) == 1
        assert sockets.stat().st_mode & 0o077 == 0
    finally:
        server.stop()
        shutil.rmtree(sockets)


def test_a_socket_folder_that_others_may_enter_is_refused(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "MAX_SOCKET_PATH", 1)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    folder = embedded.socket_folder(home / "postgres", SystemUser.current())
    folder.chmod(0o755)
    with pytest.raises(StoreError, match="somebody else"):
        embedded.socket_folder(home / "postgres", SystemUser.current())


def test_a_server_that_cannot_start_says_why(home: Path) -> None:
    server = EmbeddedPostgres({"shared_buffers": "nonsense"})
    with pytest.raises(StoreError, match="shared_buffers"):
        server.start(home)
    again = EmbeddedPostgres()  # the failed one has let go of the home
    again.start(home)
    again.stop()
