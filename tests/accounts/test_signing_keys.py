"""Signing keys: how they are read and named, and which of them signs and verifies when."""

from __future__ import annotations

import json
from math import inf
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from geko_proxy.accounts.signing_keys import (
    ALGORITHMS,
    BadKey,
    KeyRing,
    SigningKey,
    generate,
    key_of,
    read_pem,
    thumbprint,
    to_pem,
)

EXAMPLE = {  # RFC 7638, 3.1
    "kty": "RSA",
    "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3"
    "oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQ"
    "vRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnq"
    "DKgw",
    "e": "AQAB",
}


def pem(key: Any, *, password: bytes | None = None) -> bytes:
    sealed = BestAvailableEncryption(password) if password else NoEncryption()
    content: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealed)
    return content


def test_the_name_is_the_thumbprint_of_the_standard() -> None:
    key = jwt.PyJWK(EXAMPLE, "RS256").key
    assert thumbprint(key) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_key_is_the_same_after_it_was_written(algorithm: str) -> None:
    private = generate(algorithm)
    key = read_pem(to_pem(private).encode())
    assert (key.kid, key.algorithm) == (key_of(private).kid, algorithm)
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    only_public = read_pem(public)
    assert (only_public.kid, only_public.private) == (key.kid, None)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_others_can_verify_by_the_published_part_which_holds_no_secret(algorithm: str) -> None:
    key = key_of(generate(algorithm))
    shown = key.jwk()
    assert set(shown) <= {"kty", "crv", "x", "n", "e", "kid", "use", "alg"}
    assert key.private is not None
    token = jwt.encode({"a": 1}, key.private, algorithm=algorithm)
    assert jwt.decode(token, jwt.PyJWK(json.loads(json.dumps(shown))), algorithms=[algorithm]) == {"a": 1}
    assert "PRIVATE" not in repr(key)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (pem(rsa.generate_private_key(65537, 1024)), "1024 bits"),
        (pem(rsa.generate_private_key(3, 2048)), "exponent"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "another kind"),
        (pem(Ed25519PrivateKey.generate(), password=b"x"), "password"),
        (b"", "no PEM key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no PEM key"),
        (b"-----BEGIN PUBLIC KEY-----\n\xff\n", "no PEM key"),
    ],
)
def test_a_key_that_is_none_or_weak_is_refused(content: bytes, problem: str) -> None:
    with pytest.raises(BadKey, match=problem):
        read_pem(content)


def keys(*times: tuple[float, float]) -> list[SigningKey]:
    return [key_of(Ed25519PrivateKey.generate(), signs_from=start, ends_at=end) for start, end in times]


def test_the_newest_key_whose_time_has_come_signs() -> None:
    old, current, coming = keys((100, 260), (200, 360), (300, inf))
    ring = KeyRing([coming, old, current])
    signers = [ring.signer("EdDSA", now) for now in (100, 199, 200, 299, 300, 1e9)]
    assert signers == [old, old, current, current, coming, coming]
    assert ring.signer("RS256", 200) is None
    shown = [[each["kid"] for each in ring.published(now)] for now in (100, 259, 260, 360)]
    every = [old.kid, current.kid, coming.kid]
    assert shown == [every, every, every[1:], every[2:]]


def test_without_a_key_whose_time_has_come_the_next_one_signs() -> None:
    coming, later = keys((200, inf), (300, inf))
    (not_yet,) = keys((inf, inf))
    assert KeyRing([later, coming]).signer("EdDSA", 100) is coming
    assert KeyRing([not_yet]).signer("EdDSA", 100) is None


def test_the_operators_key_is_preferred() -> None:
    (own,) = keys((200, inf))
    given = key_of(Ed25519PrivateKey.generate(), of_operator=True)
    assert KeyRing([own, given]).signer("EdDSA", 300) is given


def test_a_public_key_does_not_sign() -> None:
    key = key_of(Ed25519PrivateKey.generate())
    ring = KeyRing([SigningKey(key.kid, "EdDSA", key.public)])
    assert ring.signer("EdDSA", 1) is None
    assert ring.find(key.kid) is not None
