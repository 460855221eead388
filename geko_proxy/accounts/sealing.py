"""Encrypts secrets of other parties (providers' tokens, TOTP keys) before they are stored."""

from __future__ import annotations

import base64
import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from geko_proxy.errors import GekoError

NONCE_BYTES: Final = 12
INFO: Final = b"geko sealing 1"


class BrokenSeal(GekoError):
    """A stored secret can't be read: it was changed, or sealed with another key or for another place."""


class Sealer:
    """AES-256-GCM with keys derived from secrets (HKDF, RFC 5869).

    secrets: the first seals; all of them open, so that a secret can be replaced without downtime.
    """

    def __init__(self, *given: str) -> None:
        self._ciphers = [AESGCM(derive(secret)) for secret in given if secret]
        if not self._ciphers:
            raise ValueError("a sealer needs a secret")

    def seal(self, plain: str, place: str) -> str:
        """The text to store. place: where it belongs, as "oauth_tokens/<user>"; it opens nowhere else."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = self._ciphers[0].encrypt(nonce, plain.encode(), place.encode())
        return base64.b64encode(nonce + sealed).decode()

    def open(self, sealed: str, place: str) -> str:
        """What was sealed for this place. Raises BrokenSeal."""
        content = base64.b64decode(sealed)
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(content[:NONCE_BYTES], content[NONCE_BYTES:], place.encode()).decode()
            except InvalidTag:
                continue
        raise BrokenSeal(f"{place}: a stored secret can't be opened")


def derive(secret: str) -> bytes:
    """The 32-byte key of a secret."""
    return HKDF(SHA256(), 32, salt=None, info=INFO).derive(secret.encode())
