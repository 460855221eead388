"""The refresh token: which tenant and session it belongs to, and 32 secret bytes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

SECRET_BYTES: Final = 32
# 16 + 16 + 32 bytes, without padding and in one spelling: the last character has only two bits that count
ENCODED: Final = re.compile(r"[A-Za-z0-9_-]{85}[AQgw]", re.ASCII)


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """A refresh token. Only its hash is ever stored."""

    tenant_id: UUID
    session_id: UUID
    secret: bytes

    @classmethod
    def first(cls, tenant_id: UUID, session_id: UUID) -> RefreshToken:
        """The first token of a new session."""
        return cls(tenant_id, session_id, secrets.token_bytes(SECRET_BYTES))

    @classmethod
    def decode(cls, text: str) -> RefreshToken:
        """The parts of an encoded token. Raises ValueError when it has not the form of one."""
        if ENCODED.fullmatch(text) is None:
            raise ValueError("not a refresh token")
        content = base64.urlsafe_b64decode(text + "==")
        return cls(UUID(bytes=content[:16]), UUID(bytes=content[16:32]), content[32:])

    def encode(self) -> str:
        """86 characters that are safe in URLs and cookies."""
        content = self.tenant_id.bytes + self.session_id.bytes + self.secret
        return base64.urlsafe_b64encode(content).decode().rstrip("=")

    def hash(self) -> bytes:
        """SHA-256 of the secret, which is random: no slow hash is needed."""
        return hashlib.sha256(self.secret).digest()

    def successor(self, key: bytes) -> RefreshToken:
        """The token that replaces this one. key: 32 random bytes of this rotation, stored with its hash.

        Who has lost the reply can be given the same successor again, although it is not stored: it takes
        both the key, which never leaves the database, and this token, which is not in it.
        """
        return replace(self, secret=hmac.digest(key, self.secret, "sha256"))
