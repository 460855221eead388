"""Keeps the keys that this instance knows up to date, and makes new ones when it is time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import asyncpg

from geko_proxy.accounts import signing_key_files
from geko_proxy.accounts.signing_key_store import TOPIC, SigningKeyStore, StoredKey, UnknownKid, with_ends
from geko_proxy.accounts.signing_keys import ALGORITHMS, BadKey, KeyRing, SigningKey
from geko_proxy.errors import ConfigError, StoreError
from geko_proxy.storage.invalidation import Invalidation

log = logging.getLogger("geko.signing_keys")

# Others read the public keys over HTTP and keep them for JWKS_MAX_AGE_S: a new key is there for twice that before.
JWKS_MAX_AGE_S: Final = 300
DELAY_S: Final = 2 * JWKS_MAX_AGE_S
URGENT_DELAY_S: Final = 5.0  # ours hear of it within a second
POLL_S: Final = 15.0  # if a notice is lost, and for files
RETRY_S: Final = 1.0
REFRESH_S: Final = 2.0
SKEW_S: Final = 60
ERASE_AFTER_S: Final = 3600.0
LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class RotationPlan:
    """algorithm: what signs. files: the operator's keys, None for none. rotation_days: 0: only by hand.

    token_ttl_s: a key's tokens are accepted that long after its successor begins to sign.
    """

    algorithm: str
    token_ttl_s: int
    rotation_days: int = 0
    files: Path | None = None

    @property
    def keeps_own(self) -> bool:
        """Whether GEKO makes the keys that sign."""
        return self.algorithm in ALGORITHMS and self.files is None


class SigningKeyRotation:
    """Reads keys from database and files. use: called with every new ring, before anything else waits."""

    def __init__(
        self,
        store: SigningKeyStore,
        invalidation: Invalidation,
        plan: RotationPlan,
        use: Callable[[KeyRing], None],
    ) -> None:
        self._store = store
        self._plan = plan
        self._use = use
        self._ring = KeyRing()
        self._opened: dict[str, SigningKey] = {}
        self._unusable: set[str] = set()
        self._files: tuple[signing_key_files.Stamp | None, list[SigningKey]] = (None, [])
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._reading = asyncio.Lock()
        self._refreshed_at = -REFRESH_S
        invalidation.subscribe(TOPIC, lambda _: self._wake.set())

    async def start(self) -> None:
        """Read the keys, make the first one if there is none, and keep looking.

        Raises ConfigError when nothing can sign, StoreError.
        """
        try:
            await self.reload()
        except BadKey as error:
            raise ConfigError([f"auth.signing_keys: {error}"]) from None
        algorithm = self._plan.algorithm
        if algorithm in ALGORITHMS and self._ring.signer(algorithm, time.time()) is None:
            raise ConfigError([self._why_nothing_signs()])
        self._task = asyncio.create_task(self._keep_current(), name="signing keys")

    async def stop(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def jwks(self, now: float) -> list[dict[str, str]]:
        """The public keys, for others that verify GEKO's tokens."""
        return self._ring.published(now)

    async def refresh(self) -> None:
        """Somebody came with a token of an unknown key: look whether there is a new one, at most every REFRESH_S."""
        if time.monotonic() - self._refreshed_at < REFRESH_S:
            return
        self._refreshed_at = time.monotonic()
        try:
            await self.reload()
        except BadKey as error:
            log.error("the signing keys stay as they are: %s", error)

    async def reload(self) -> None:
        """Read the keys anew; make one if it is time. Raises BadKey for a broken file, StoreError."""
        async with self._reading:
            keys = await self._read()
            if self._plan.keeps_own and await self._make_due(keys):
                keys = await self._read()
            ring = KeyRing(keys)
            if ring.fingerprint != self._ring.fingerprint:
                self._ring = ring
                self._use(ring)

    async def _read(self) -> list[SigningKey]:
        rows = [row for row in await self._store.rows() if row.retired_at is None]
        opened = [key for key in map(self._open, rows) if key is not None]
        self._opened = {key.kid: key for key in opened}
        keys = with_ends(opened, self._plan.token_ttl_s + SKEW_S)
        await self._erase(keys)
        return [*keys, *await asyncio.to_thread(self._read_files)]

    def _open(self, row: StoredKey) -> SigningKey | None:
        known = self._opened.get(row.kid)
        if known is not None:
            return known
        try:
            return self._store.open(row)
        except BadKey as error:
            if row.kid not in self._unusable:
                log.error("%s; it is not used", error)
            self._unusable.add(row.kid)
            return None

    def _read_files(self) -> list[SigningKey]:
        path = self._plan.files
        if path is None:
            return []
        stamp = signing_key_files.stamp(path)
        if stamp != self._files[0]:
            self._files = (stamp, signing_key_files.load(path))
        return self._files[1]

    async def _make_due(self, keys: list[SigningKey]) -> bool:
        """Make a key when there is none, or when the newest is old; False when nothing changed."""
        algorithm, days = self._plan.algorithm, self._plan.rotation_days
        own = [key for key in keys if key.algorithm == algorithm and not key.of_operator]
        oldest_good = datetime.now(UTC) - timedelta(days=days) if days else LONG_AGO
        if any(key.created_at > oldest_good.timestamp() for key in own):
            return False
        kid = await self._store.add(algorithm, DELAY_S, oldest_good)
        if kid is not None:
            log.info("made a signing key %s (%s)", kid, algorithm)
        return True

    async def _erase(self, keys: list[SigningKey]) -> None:
        """Retire what was replaced and whose last token is over."""
        for key in keys:
            if key.ends_at + ERASE_AFTER_S < time.time():
                with contextlib.suppress(UnknownKid):  # another instance did it
                    await self._store.retire(key.kid)
                    log.info("retired the signing key %s", key.kid)

    async def _keep_current(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), POLL_S)
            self._wake.clear()
            try:
                await self.reload()
            except BadKey as error:
                log.error("the signing keys stay as they are: %s", error)
            except (StoreError, asyncpg.PostgresError) as error:
                log.warning("the signing keys stay as they are: %s", error)
                self._wake.set()
                await asyncio.sleep(RETRY_S)

    def _why_nothing_signs(self) -> str:
        if self._plan.files is not None:
            return f"auth.signing_keys: holds no private key for {self._plan.algorithm}"
        return "auth.encryption_secret: opens no signing key in the database; run `geko keys rotate --now`"
