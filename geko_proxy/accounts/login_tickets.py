"""Sign-ins whose password was right and whose code is still to come."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID, uuid4

from geko_proxy.storage.database import Scope

LIFE: Final = timedelta(minutes=5)
MAX_ATTEMPTS: Final = 5
SECRET_BYTES: Final = 32
ENCODED: Final = re.compile(r"[A-Za-z0-9_-]{86}", re.ASCII)  # 16 + 16 + 32 bytes, without padding

OPEN: Final = """
insert into login_tickets (tenant_id, ticket_id, user_id, workspace_id, token_hash, bound_to, expires_at)
values ($1, $2, $3, $4, $5, $6, now() + $7::interval)"""
SWEEP: Final = "delete from login_tickets where tenant_id = $1 and user_id = $2 and expires_at <= now()"
USE: Final = """
update login_tickets set attempts = attempts + 1
where tenant_id = $1 and ticket_id = $2 and token_hash = $3 and bound_to = $4 and expires_at > now() and attempts < $5
returning user_id, workspace_id"""
CLOSE: Final = "delete from login_tickets where tenant_id = $1 and ticket_id = $2"
CLOSE_ALL: Final = "delete from login_tickets where tenant_id = $1 and user_id = $2"


@dataclass(frozen=True, slots=True)
class TicketToken:
    """The parts of a ticket as the client holds it."""

    tenant_id: UUID
    ticket_id: UUID
    secret: bytes

    @classmethod
    def decode(cls, text: str) -> TicketToken | None:
        """The parts of a ticket; None when it has not the form of one."""
        if ENCODED.fullmatch(text) is None:
            return None
        content = base64.urlsafe_b64decode(text + "==")
        return cls(UUID(bytes=content[:16]), UUID(bytes=content[16:32]), content[32:])

    def encode(self) -> str:
        """86 characters that are safe in URLs: LibreChat's client puts it into one."""
        content = self.tenant_id.bytes + self.ticket_id.bytes + self.secret
        return base64.urlsafe_b64encode(content).decode().rstrip("=")


@dataclass(frozen=True, slots=True)
class Ticket:
    """Who may go on with a code. workspace_id: the one to enter, None for the oldest."""

    user_id: UUID
    workspace_id: UUID | None


async def open_ticket(scope: Scope, user_id: UUID, workspace_id: UUID | None, bound_to: str) -> str:
    """A new ticket. bound_to: what the client must show again."""
    token = TicketToken(scope.tenant_id, uuid4(), secrets.token_bytes(SECRET_BYTES))
    await scope.execute(SWEEP, user_id)
    hashes = hashed(token.secret), hashed(bound_to.encode("utf-8", "surrogatepass"))
    await scope.execute(OPEN, token.ticket_id, user_id, workspace_id, *hashes, LIFE)
    return token.encode()


async def use_ticket(scope: Scope, token: TicketToken, bound_to: str) -> Ticket | None:
    """Count an attempt with a ticket; None when it is over, unknown or somebody else's."""
    hashes = hashed(token.secret), hashed(bound_to.encode("utf-8", "surrogatepass"))
    row = await scope.fetch_row(USE, token.ticket_id, *hashes, MAX_ATTEMPTS)
    return None if row is None else Ticket(row["user_id"], row["workspace_id"])


async def close_ticket(scope: Scope, token: TicketToken) -> None:
    """End a ticket."""
    await scope.execute(CLOSE, token.ticket_id)


async def close_tickets(scope: Scope, user_id: UUID) -> None:
    """End all tickets of a user: the password they came with is no longer the right one."""
    await scope.execute(CLOSE_ALL, user_id)


def hashed(content: bytes) -> bytes:
    """SHA-256."""
    return hashlib.sha256(content).digest()
