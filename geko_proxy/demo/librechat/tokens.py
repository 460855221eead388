"""JSON web tokens as the jsonwebtoken package signs and verifies them, with its words for what is wrong.

Not PyJWT: the product verifies with that, and the stand-in must not share its opinions.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from typing import Any

_DIGESTS = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}


class BadToken(Exception):
    """A token that is refused; the text is jsonwebtoken's."""


def sign(payload: dict[str, Any], secret: str) -> str:
    """Sign with HS256."""
    parts = [_b64(json.dumps(part, separators=(",", ":")).encode()) for part in (_HEADER, payload)]
    return ".".join([*parts, _signature(".".join(parts), secret, "HS256")])


def verify(token: str, secret: str, now: float | None = None) -> dict[str, Any]:
    """Return the payload. Raises BadToken. HS256, HS384 and HS512 pass (contract §2.5)."""
    parts = token.split(".")
    if len(parts) != 3:
        raise BadToken("jwt malformed")
    header, payload = _decoded(parts[0]), _decoded(parts[1])
    if not parts[2]:
        raise BadToken("jwt signature is required")
    algorithm = header.get("alg")
    if algorithm not in _DIGESTS:
        raise BadToken("invalid algorithm")
    if not hmac.compare_digest(parts[2], _signature(f"{parts[0]}.{parts[1]}", secret, algorithm)):
        raise BadToken("invalid signature")
    moment = time.time() if now is None else now
    if moment < payload.get("nbf", 0):
        raise BadToken("jwt not active")
    if moment >= payload.get("exp", moment + 1):
        raise BadToken("jwt expired")
    return payload


_HEADER = {"alg": "HS256", "typ": "JWT"}


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decoded(part: str) -> dict[str, Any]:
    try:
        value = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, binascii.Error):
        raise BadToken("invalid token") from None
    if not isinstance(value, dict):
        raise BadToken("invalid token")
    return value


def _signature(signed: str, secret: str, algorithm: str) -> str:
    return _b64(hmac.new(secret.encode(), signed.encode(), _DIGESTS[algorithm]).digest())
