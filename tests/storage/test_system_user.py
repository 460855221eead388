"""The user of the embedded PostgreSQL: not root, and able to reach its folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from geko_proxy.errors import StoreError
from geko_proxy.storage.system_user import SystemUser


def test_is_never_root(tmp_path: Path) -> None:
    user = SystemUser.current()
    with (tmp_path / "log").open("wb") as log:
        assert user.start(["id", "-u"], log).wait() == 0
    assert int((tmp_path / "log").read_text()) != 0
    assert (user.uid is None) == (os.geteuid() != 0)


def test_a_failing_program_says_why() -> None:
    with pytest.raises(StoreError, match=r"ls: .*/nowhere"):
        SystemUser.current().run(["ls", "/nowhere"])


def test_folders_above_are_made_passable_but_not_readable(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    SystemUser(uid=os.geteuid(), gid=os.getegid()).open_way(closed / "data")
    assert closed.stat().st_mode & 0o777 == 0o701


def test_nothing_is_opened_when_nobody_changes(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    SystemUser().open_way(closed / "data")
    assert closed.stat().st_mode & 0o777 == 0o700
