"""Secrets for links that work once and not for long: only the newest of a user and purpose, kept as a hash."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID, uuid4

import msgspec

from geko_proxy.storage.database import Database, Scope

SECRET_BYTES: Final = 32
# 16 + 16 + 32 bytes, without padding and in one spelling: the last character has only two bits that count
ENCODED: Final = re.compile(r"[A-Za-z0-9_-]{85}[AQgw]", re.ASCII)

PUT: Final = """
insert into one_time_tokens (tenant_id, token_id, user_id, purpose, token_hash, data, expires_at)
values ($1, $2, $3, $4, $5, $6, now() + $7::interval)
on conflict (tenant_id, user_id, purpose) do update set token_id = excluded.token_id,
    token_hash = excluded.token_hash, data = excluded.data, created_at = now(), expires_at = excluded.expires_at"""

TAKE: Final = """
delete from one_time_tokens
where tenant_id = $1 and token_id = $2 and token_hash = $3 and purpose = $4 and expires_at > now()
returning user_id, data"""


PEEK: Final = """
select user_id, data from one_time_tokens
where tenant_id = $1 and token_id = $2 and token_hash = $3 and purpose = $4 and expires_at > now()"""

END: Final = "delete from one_time_tokens where tenant_id = $1 and user_id = $2 and purpose = $3"


class Purpose(StrEnum):
    """What a link is for."""

    RESET_PASSWORD = "reset_password"  # noqa: S105  # the name of a purpose
    VERIFY_EMAIL = "verify_email"


@dataclass(frozen=True, slots=True)
class Redeemed:
    """What was behind a link. data: what `issue` was given."""

    tenant_id: UUID
    user_id: UUID
    data: dict[str, Any]


class OneTimeTokens:
    """Issues and redeems. Every method raises StoreError when the database is gone."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def issue(
        self, scope: Scope, user_id: UUID, purpose: Purpose, data: Mapping[str, Any], ttl_s: float
    ) -> str:
        """A new token, safe in URLs; the user's former one of this purpose ends. ttl_s: life in seconds."""
        token_id, secret = uuid4(), secrets.token_bytes(SECRET_BYTES)
        text = msgspec.json.encode(data).decode()
        life = timedelta(seconds=ttl_s)
        await scope.execute(PUT, token_id, user_id, purpose.value, hashed(secret), text, life)
        return base64.urlsafe_b64encode(scope.tenant_id.bytes + token_id.bytes + secret).decode().rstrip("=")

    async def redeem(self, token: str, purpose: Purpose) -> Redeemed | None:
        """What is behind a token, which ends with this; None for one that is unknown, used, expired or for another
        purpose."""
        return await self._find(token, purpose, TAKE)

    async def peek(self, token: str, purpose: Purpose) -> Redeemed | None:
        """What `redeem` would give, without ending the token."""
        return await self._find(token, purpose, PEEK)

    async def end(self, scope: Scope, user_id: UUID, purpose: Purpose) -> None:
        """End a user's token of a purpose."""
        await scope.execute(END, user_id, purpose.value)

    async def _find(self, token: str, purpose: Purpose, sql: str) -> Redeemed | None:
        if ENCODED.fullmatch(token) is None:
            return None
        content = base64.urlsafe_b64decode(token + "==")
        tenant_id, token_id, secret = UUID(bytes=content[:16]), UUID(bytes=content[16:32]), content[32:]
        async with self._database.tenant(tenant_id) as scope:
            row = await scope.fetch_row(sql, token_id, hashed(secret), purpose.value)
        return None if row is None else Redeemed(tenant_id, row["user_id"], msgspec.json.decode(row["data"]))


def hashed(secret: bytes) -> bytes:
    """SHA-256 of a secret, which is random: no slow hash is needed."""
    return hashlib.sha256(secret).digest()
