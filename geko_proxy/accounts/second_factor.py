"""One-time codes (TOTP, RFC 6238) and recovery codes as a second factor. Codes count once; wrong ones are limited."""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import ceil
from typing import TYPE_CHECKING, Final
from uuid import UUID

import pyotp

from geko_proxy.accounts.sealing import Sealer
from geko_proxy.storage.database import Scope

if TYPE_CHECKING:
    from asyncpg import Record

ISSUER: Final = "GEKO"
STEP_S: Final = 30
CODE: Final = re.compile(r"\d{6}", re.ASCII)
RECOVERY_CODES: Final = 10
RECOVERY_LENGTH: Final = 8  # as many as LibreChat's field takes
ALPHABET: Final = "abcdefghjkmnpqrstuvwxyz23456789"  # without those that look alike
PENDING_LIFE: Final = timedelta(hours=1)

FREE_FAILURES: Final = 5
BLOCK_S: Final = 30  # after the last free failure; then twice as long each time
MAX_BLOCK_S: Final = 900

READ: Final = """
select secret, pending_secret, pending_codes, pending_at > now() - $3::interval as is_pending, last_step, failures,
    greatest(0, extract(epoch from blocked_until - now()))::float8 as blocked_s
from totp where tenant_id = $1 and user_id = $2 for update"""
ENROL: Final = """
insert into totp (tenant_id, user_id, pending_secret, pending_codes, pending_at) values ($1, $2, $3, $4, now())
on conflict (tenant_id, user_id) do update set pending_secret = excluded.pending_secret,
    pending_codes = excluded.pending_codes, pending_at = now()"""
CONFIRM: Final = """
update totp set secret = pending_secret, confirmed_at = now(), last_step = $3, pending_secret = null,
    pending_codes = '{}', pending_at = null, failures = 0, blocked_until = null
where tenant_id = $1 and user_id = $2"""
PASSED: Final = """
update totp set last_step = greatest(last_step, $3), failures = 0, blocked_until = null
where tenant_id = $1 and user_id = $2"""
FAILED: Final = """
update totp set failures = failures + 1, blocked_until = now() + $3::interval
where tenant_id = $1 and user_id = $2"""
USE_RECOVERY: Final = """
update recovery_codes set used_at = now()
where tenant_id = $1 and user_id = $2 and code_hash = $3 and used_at is null returning 1"""
ADD_RECOVERY: Final = """
insert into recovery_codes (tenant_id, user_id, code_hash) select $1, $2, unnest($3::bytea[])"""
LEFT: Final = "select count(*) from recovery_codes where tenant_id = $1 and user_id = $2 and used_at is null"
CLEAR_RECOVERY: Final = "delete from recovery_codes where tenant_id = $1 and user_id = $2"
CLEAR: Final = "delete from totp where tenant_id = $1 and user_id = $2"
SET_FLAG: Final = "update users set two_factor = $3 where tenant_id = $1 and user_id = $2"


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A key that is to be confirmed by a code. uri: for authenticator apps; recovery_codes: shown this once."""

    secret: str
    uri: str
    recovery_codes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a code was right. wait_s: no code is looked at before; recovery: it was a recovery code;
    blocks: it was one too many, so that a wait begins.
    """

    passed: bool
    wait_s: int = 0
    recovery: bool = False
    blocks: bool = False


class SecondFactors:
    """Works inside the caller's transaction, which must be committed also when a code was wrong: failures count.

    The row of a user is locked while a code is checked, so that over all instances each counts once.
    now: Unix time.
    """

    def __init__(self, sealer: Sealer, now: Callable[[], float] = time.time) -> None:
        self._sealer = sealer
        self._now = now

    async def enrol(self, scope: Scope, user_id: UUID, email: str, *, with_codes: bool = False) -> Enrolment:
        """A new key, which counts once it is confirmed; until then the present one goes on.

        with_codes: make its recovery codes now, for LibreChat's dialog, which wants them before the confirmation.
        """
        secret = pyotp.random_base32()
        codes = new_codes() if with_codes else ()
        sealed = self._sealer.seal(secret, place(scope, user_id))
        await scope.execute(ENROL, user_id, sealed, [code_hash(secret, code) for code in codes])
        uri = pyotp.TOTP(secret, interval=STEP_S).provisioning_uri(name=email, issuer_name=ISSUER)
        return Enrolment(secret, uri, codes)

    async def is_on(self, scope: Scope, user_id: UUID) -> bool:
        """Whether there is a confirmed key."""
        row = await self._read(scope, user_id)
        return row is not None and row["secret"] is not None

    async def check_pending(self, scope: Scope, user_id: UUID, code: str) -> Verdict | None:
        """Whether a code fits the key to be confirmed; it is not used up. None: there is no such key."""
        found = await self._check_pending(scope, user_id, code)
        return None if found is None else found[0]

    async def confirm(self, scope: Scope, user_id: UUID, code: str) -> tuple[Verdict, tuple[str, ...]] | None:
        """Put the new key into force if the code fits. None: there is none to confirm.

        Gives the recovery codes, none when `enrol` has given them.
        """
        found = await self._check_pending(scope, user_id, code)
        if found is None:
            return None
        verdict, step, row = found
        if not verdict.passed or row is None:
            return verdict, ()
        secret = self._open(scope, user_id, row["pending_secret"])
        given: list[bytes] = list(row["pending_codes"])
        codes = () if given else new_codes()
        await scope.execute(CONFIRM, user_id, step)
        await self._store_codes(scope, user_id, given or [code_hash(secret, each) for each in codes])
        await scope.execute(SET_FLAG, user_id, True)
        return verdict, codes

    async def check(
        self, scope: Scope, user_id: UUID, code: str | None, recovery_code: str | None = None
    ) -> Verdict:
        """Whether a code or a recovery code is right, which is used up by that."""
        row = await self._read(scope, user_id)
        if row is None or row["secret"] is None:
            return Verdict(passed=False)
        if row["blocked_s"]:
            return Verdict(passed=False, wait_s=ceil(row["blocked_s"]))
        secret = self._open(scope, user_id, row["secret"])
        step = self._step_of(secret, code, after=row["last_step"]) if code else None
        recovered = False
        if step is None and recovery_code:
            recovered = bool(await scope.fetch_value(USE_RECOVERY, user_id, code_hash(secret, recovery_code)))
        if step is None and not recovered:
            return await self._failed(scope, user_id, row)
        await scope.execute(PASSED, user_id, step or 0)
        return Verdict(passed=True, recovery=recovered)

    async def renew_codes(self, scope: Scope, user_id: UUID) -> tuple[str, ...]:
        """New recovery codes; the old ones end. Check a code first. Raises LookupError without a confirmed key."""
        row = await self._read(scope, user_id)
        if row is None or row["secret"] is None:
            raise LookupError("no second factor")
        secret = self._open(scope, user_id, row["secret"])
        codes = new_codes()
        await self._store_codes(scope, user_id, [code_hash(secret, code) for code in codes])
        return codes

    async def codes_left(self, scope: Scope, user_id: UUID) -> int:
        """How many recovery codes are not used."""
        return int(await scope.fetch_value(LEFT, user_id))

    async def remove(self, scope: Scope, user_id: UUID) -> None:
        """Take the second factor away, with everything that belongs to it."""
        await scope.execute(CLEAR_RECOVERY, user_id)
        await scope.execute(CLEAR, user_id)
        await scope.execute(SET_FLAG, user_id, False)

    async def _check_pending(
        self, scope: Scope, user_id: UUID, code: str
    ) -> tuple[Verdict, int, Record | None] | None:
        row = await self._read(scope, user_id)
        if row is None or row["pending_secret"] is None or not row["is_pending"]:
            return None
        if row["blocked_s"]:
            return Verdict(passed=False, wait_s=ceil(row["blocked_s"])), 0, None
        step = self._step_of(self._open(scope, user_id, row["pending_secret"]), code, after=0)
        if step is None:
            return await self._failed(scope, user_id, row), 0, None
        return Verdict(passed=True), step, row

    async def _read(self, scope: Scope, user_id: UUID) -> Record | None:
        return await scope.fetch_row(READ, user_id, PENDING_LIFE)

    async def _failed(self, scope: Scope, user_id: UUID, row: Record) -> Verdict:
        over = row["failures"] + 1 - FREE_FAILURES
        # null and not "until now": to a transaction that began earlier and waited, that would lie ahead
        block = None if over < 0 else timedelta(seconds=min(MAX_BLOCK_S, BLOCK_S * 2 ** min(over, 10)))
        await scope.execute(FAILED, user_id, block)
        return Verdict(passed=False, blocks=block is not None)

    async def _store_codes(self, scope: Scope, user_id: UUID, hashes: Sequence[bytes]) -> None:
        await scope.execute(CLEAR_RECOVERY, user_id)
        await scope.execute(ADD_RECOVERY, user_id, list(hashes))

    def _step_of(self, secret: str, code: str, *, after: int) -> int | None:
        """The time step of a code, the present one or a neighbour, unless it or a later one was used already."""
        if CODE.fullmatch(code) is None:
            return None
        totp = pyotp.TOTP(secret, interval=STEP_S)
        present = int(self._now()) // STEP_S
        fits = [
            step
            for step in (present - 1, present, present + 1)
            if hmac.compare_digest(totp.generate_otp(step), code)
        ]
        return next((step for step in fits if step > after), None)

    def _open(self, scope: Scope, user_id: UUID, sealed: str) -> str:
        return self._sealer.open(sealed, place(scope, user_id))


def new_codes() -> tuple[str, ...]:
    """Recovery codes, 40 bits each."""
    return tuple(
        "".join(secrets.choice(ALPHABET) for _ in range(RECOVERY_LENGTH)) for _ in range(RECOVERY_CODES)
    )


def code_hash(secret: str, code: str) -> bytes:
    """What is stored of a recovery code, however it is typed. secret: the TOTP key, which is kept sealed."""
    plain = re.sub(r"[\s-]", "", code).lower()
    return hmac.digest(secret.encode(), plain.encode("utf-8", "surrogatepass"), "sha256")


def place(scope: Scope, user_id: UUID) -> str:
    """Where the key is kept, for the seal."""
    return f"totp/{scope.tenant_id}/{user_id}"
