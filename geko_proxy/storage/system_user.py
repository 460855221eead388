"""The system user that the embedded PostgreSQL runs as, because PostgreSQL refuses to be root."""

from __future__ import annotations

import logging
import os
import pwd
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from geko_proxy.errors import StoreError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SystemUser:
    """Runs programs as a user. uid, gid: None for the one we are."""

    uid: int | None = None
    gid: int | None = None

    @classmethod
    def current(cls) -> SystemUser:
        """`nobody` for root, else the current user."""
        if os.geteuid() != 0:
            return cls()
        nobody = pwd.getpwnam("nobody")
        return cls(nobody.pw_uid, nobody.pw_gid)

    def run(self, command: list[str]) -> None:
        """Runs a program to its end. Raises StoreError with what it said."""
        done = subprocess.run(
            command, user=self.uid, group=self.gid, extra_groups=self._groups(), capture_output=True, cwd="/"
        )
        if done.returncode != 0:
            raise StoreError(f"{Path(command[0]).name}: {done.stderr.decode(errors='replace').strip()}")

    def start(self, command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        """Starts a program in a session of its own, so that Ctrl-C reaches only GEKO, which then ends it."""
        return subprocess.Popen(
            command,
            user=self.uid,
            group=self.gid,
            extra_groups=self._groups(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )

    def own(self, folder: Path) -> None:
        """Gives a folder to the user."""
        if self.uid is not None and self.gid is not None:
            os.chown(folder, self.uid, self.gid)

    def open_way(self, path: Path) -> None:
        """Lets the user pass through the folders above `path` (o+x: pass, not list)."""
        if self.uid is None:
            return
        for folder in path.resolve().parents:
            mode = folder.stat().st_mode
            if not mode & stat.S_IXOTH:
                logger.warning("made %s passable (o+x) for the embedded PostgreSQL", folder)
                folder.chmod(mode | stat.S_IXOTH)

    def _groups(self) -> list[int] | None:
        return None if self.gid is None else [self.gid]
