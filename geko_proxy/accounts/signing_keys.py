"""Keys that sign access tokens: made, read, named by their thumbprint (RFC 7638), and which of them counts when."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import (
    RSAPrivateKey,
    RSAPublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from geko_proxy.errors import GekoError

ALGORITHMS: Final = ("EdDSA", "RS256")
MIN_RSA_BITS: Final = 2048  # RFC 7518, 3.3
NEW_RSA_BITS: Final = 3072  # NIST SP 800-57: good beyond 2030
RSA_EXPONENT: Final = 65537

PrivateKey = Ed25519PrivateKey | RSAPrivateKey
PublicKey = Ed25519PublicKey | RSAPublicKey


class BadKey(GekoError):
    """A key that can't be used. The message says why and never holds the key."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key. algorithm: the only one it is used with. private: None for one that only verifies.

    signs_from, ends_at: from when on it signs, and when its tokens are no longer accepted; Unix seconds.
    of_operator: it comes from a file, and is preferred to the database's.
    """

    kid: str
    algorithm: str
    public: PublicKey = field(repr=False)
    private: PrivateKey | None = field(repr=False, default=None)
    signs_from: float = 0.0
    ends_at: float = inf
    created_at: float = 0.0
    of_operator: bool = False

    @property
    def fingerprint(self) -> tuple[object, ...]:
        """What makes two of them the same."""
        return self.kid, self.private is None, self.signs_from, self.ends_at, self.of_operator

    def jwk(self) -> dict[str, str]:
        """The public part as a JSON Web Key (RFC 7517)."""
        return {**public_members(self.public), "kid": self.kid, "use": "sig", "alg": self.algorithm}


class KeyRing:
    """All keys that are known at one moment."""

    def __init__(self, keys: Iterable[SigningKey] = ()) -> None:
        self._keys = {key.kid: key for key in keys}
        self.fingerprint = frozenset(key.fingerprint for key in self._keys.values())

    def find(self, kid: str) -> SigningKey | None:
        """The key of that name."""
        return self._keys.get(kid)

    def signer(self, algorithm: str, now: float) -> SigningKey | None:
        """The key that signs at this time: the newest whose time has come, else the first whose time will come."""
        able = [
            key
            for key in self._keys.values()
            if key.algorithm == algorithm and key.private is not None and key.ends_at > now
        ]
        come = [key for key in able if key.signs_from <= now]
        if come:
            return max(come, key=lambda key: (key.of_operator, key.signs_from))
        return min(
            (key for key in able if key.signs_from < inf), key=lambda key: key.signs_from, default=None
        )

    def published(self, now: float) -> list[dict[str, str]]:
        """The public parts of all keys that verify, those included that will sign one day."""
        alive = [key for key in self._keys.values() if key.ends_at > now]
        return [key.jwk() for key in sorted(alive, key=lambda key: (key.signs_from, key.kid))]


def generate(algorithm: str) -> PrivateKey:
    """A new private key; takes up to a second for RS256."""
    if algorithm == "EdDSA":
        return Ed25519PrivateKey.generate()
    return generate_private_key(RSA_EXPONENT, NEW_RSA_BITS)


def key_of(private: PrivateKey, **times: Any) -> SigningKey:
    """The key of a private one. Raises BadKey when it is too weak."""
    public = private.public_key()
    return SigningKey(thumbprint(public), algorithm_of(public), public, private, **times)


def to_pem(private: PrivateKey) -> str:
    """PKCS #8, not encrypted."""
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def read_pem(content: bytes, **times: Any) -> SigningKey:
    """The key in a PEM text, private or public. Raises BadKey."""
    try:
        if b"PRIVATE KEY" in content:
            private = load_pem_private_key(content, password=None)
            if isinstance(private, Ed25519PrivateKey | RSAPrivateKey):
                return key_of(private, **times)
        else:
            public = load_pem_public_key(content)
            if isinstance(public, Ed25519PublicKey | RSAPublicKey):
                return SigningKey(thumbprint(public), algorithm_of(public), public, **times)
    except TypeError:
        raise BadKey("is encrypted with a password; GEKO reads it without") from None
    except (ValueError, UnsupportedAlgorithm):
        raise BadKey("holds no PEM key that can be read") from None
    raise BadKey("is of another kind than Ed25519 and RSA")


def algorithm_of(public: PublicKey) -> str:
    """The algorithm that a key is bound to by its kind. Raises BadKey for RSA keys that are too weak."""
    if isinstance(public, Ed25519PublicKey):
        return "EdDSA"
    if public.key_size < MIN_RSA_BITS:
        raise BadKey(f"is an RSA key of {public.key_size} bits, at least {MIN_RSA_BITS} are needed")
    if public.public_numbers().e < RSA_EXPONENT:
        raise BadKey(f"is an RSA key with an exponent below {RSA_EXPONENT}")
    return "RS256"


def thumbprint(public: PublicKey) -> str:
    """A key's name: SHA-256 over its required members in their order, 43 characters (RFC 7638)."""
    members = dict(sorted(public_members(public).items()))
    return encode(hashlib.sha256(msgspec.json.encode(members)).digest())


def public_members(public: PublicKey) -> dict[str, str]:
    """The required members of a public key (RFC 7518 §6.3.1, RFC 8037 §2)."""
    if isinstance(public, Ed25519PublicKey):
        raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
        return {"kty": "OKP", "crv": "Ed25519", "x": encode(raw)}
    numbers = public.public_numbers()
    return {"kty": "RSA", "n": encode(to_bytes(numbers.n)), "e": encode(to_bytes(numbers.e))}


def to_bytes(number: int) -> bytes:
    """A positive number, big-endian without leading zeros (RFC 7518 §2, Base64urlUInt)."""
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def encode(content: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
