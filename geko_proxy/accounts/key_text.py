"""The text of an API key: `gk_<id>_<secret><checksum>`, all in base 62.

id: 22 characters, the key's UUID. secret: 43 characters, 32 random bytes. checksum: 6 characters, the CRC-32 of all
before it: a scanner for leaked secrets knows a key without asking, and a typo is no wrong secret.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

PREFIX: Final = "gk_"
PATTERN: Final = re.compile(r"gk_[0-9A-Za-z]{22}_[0-9A-Za-z]{49}", re.ASCII)
DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
VALUES: Final = {digit: value for value, digit in enumerate(DIGITS)}
SECRET_BYTES: Final = 32
ID_CHARS: Final = 22
SECRET_CHARS: Final = 43
CHECKSUM_CHARS: Final = 6


class InvalidKeyText(ValueError):
    """A text that is no API key: another form, or the checksum is wrong."""


@dataclass(frozen=True, slots=True)
class KeyText:
    """A key's id and its secret, which only its owner knows."""

    key_id: UUID
    secret: bytes = field(repr=False)

    @classmethod
    def new(cls, key_id: UUID) -> KeyText:
        """A key with a fresh secret."""
        return cls(key_id, secrets.token_bytes(SECRET_BYTES))

    @classmethod
    def decode(cls, text: str) -> KeyText:
        """The parts of a key. Raises InvalidKeyText."""
        if PATTERN.fullmatch(text) is None or not is_checked(text):
            raise InvalidKeyText("not an API key")
        at = len(PREFIX)
        key_id = from_base62(text[at : at + ID_CHARS])
        secret = from_base62(text[at + ID_CHARS + 1 : -CHECKSUM_CHARS])
        if key_id >= 1 << 128 or secret >= 1 << 8 * SECRET_BYTES:
            raise InvalidKeyText("not an API key")
        return cls(UUID(int=key_id), secret.to_bytes(SECRET_BYTES, "big"))

    def encode(self) -> str:
        """The text that the owner sends as a bearer."""
        secret = to_base62(int.from_bytes(self.secret, "big"), SECRET_CHARS)
        body = f"{PREFIX}{to_base62(self.key_id.int, ID_CHARS)}_{secret}"
        return body + checksum(body)

    def hash(self) -> bytes:
        """SHA-256 of the secret, which is random: no slow hash is needed."""
        return hashlib.sha256(self.secret).digest()


def is_checked(text: str) -> bool:
    """Whether the checksum at the end of a key is right."""
    return checksum(text[:-CHECKSUM_CHARS]) == text[-CHECKSUM_CHARS:]


def checksum(body: str) -> str:
    """CRC-32 in base 62."""
    return to_base62(zlib.crc32(body.encode()), CHECKSUM_CHARS)


def to_base62(number: int, length: int) -> str:
    """A number with exactly so many digits, the most significant one first."""
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(DIGITS[digit])
    return "".join(reversed(digits))


def from_base62(text: str) -> int:
    """The number that digits stand for."""
    number = 0
    for digit in text:
        number = number * 62 + VALUES[digit]
    return number
