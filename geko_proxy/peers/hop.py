"""The header by which one instance tells another that it passes a client's request on. Only instances can make it.

It names the instance that it is for, so that a request is never passed on twice, and what that one can't see itself:
the client's address, its Host and whether it came over https. An HMAC (RFC 2104) with a key derived from
auth.encryption_secret covers it, the method, the target and the client's credentials.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

HEADER: Final = "X-Geko-Hop"
INFO: Final = b"geko peers 1"
MAX_LENGTH: Final = 4096
CREDENTIALS: Final = (b"authorization", b"cookie")

Raw = Sequence[tuple[bytes, bytes]]


class Hop(msgspec.Struct, frozen=True):
    """A request that another instance passes on to `target`.

    at: seconds, time.time(). turn_id: the answer that it is about. request_id: the same in both logs.
    """

    target: UUID
    at: float
    client_ip: str
    host: str
    secure: bool
    request_id: str
    turn_id: UUID


class HopSigner:
    """Makes and checks the header. secret: auth.encryption_secret, which all instances share."""

    def __init__(self, secret: str) -> None:
        self._key = HKDF(SHA256(), 32, salt=None, info=INFO).derive(secret.encode())

    def sign(self, hop: Hop, method: str, target: str, raw: Raw) -> bytes:
        """The header's value. target: path and query as they go on the wire; raw: the request's headers."""
        payload = base64.urlsafe_b64encode(msgspec.json.encode(hop))
        return payload + b"." + self._mac(payload, method, target, raw)

    def read(self, value: str, method: str, target: str, raw: Raw) -> Hop | None:
        """The hop; None when the header was not made by an instance for this very request."""
        if len(value) > MAX_LENGTH or not value.isascii():
            return None
        payload, _, mac = value.encode().partition(b".")
        if not hmac.compare_digest(mac, self._mac(payload, method, target, raw)):
            return None
        try:
            return msgspec.json.decode(base64.urlsafe_b64decode(payload), type=Hop)
        except (binascii.Error, msgspec.DecodeError):
            return None

    def _mac(self, payload: bytes, method: str, target: str, raw: Raw) -> bytes:
        text = b"\n".join(
            (payload, method.encode("latin-1", "replace"), target.encode("utf-8", "surrogateescape"))
        )
        given = hashlib.sha256()
        for name, value in raw:
            if name.lower() in CREDENTIALS:
                given.update(b"%d %b" % (len(value), value))
        return hmac.new(self._key, text + b"\n" + given.digest(), hashlib.sha256).hexdigest().encode()
