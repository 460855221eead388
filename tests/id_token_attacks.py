"""ID tokens as forgers make them, for the checks alone and for the running server. Not a test."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

from joserfc import jws as signatures
from joserfc import jwt

from tests.oidc_provider import CLIENT_ID, CLIENT_SECRET, ProviderState, new_key

NOW = int(time.time())

# Members of the ID token; ... takes one out.
BAD_CLAIMS: dict[str, dict[str, Any]] = {
    "wrong nonce": {"nonce": "another"},
    "no nonce": {"nonce": ...},
    "nonce of another type": {"nonce": True},
    "wrong audience": {"aud": "another-client"},
    "empty audience": {"aud": []},
    "no audience": {"aud": ...},
    "audience as an object": {"aud": {CLIENT_ID: 1}},
    "audience that only begins so": {"aud": CLIENT_ID + "x"},
    "several audiences, no azp": {"aud": [CLIENT_ID, "another-client"]},
    "authorised party is another": {"aud": [CLIENT_ID, "another-client"], "azp": "another-client"},
    "wrong issuer": {"iss": "https://evil.test"},
    "issuer with a slash more": {"iss": "/"},
    "no issuer": {"iss": ...},
    "issuer as a list": {"iss": ["https://evil.test"]},
    "expired": {"exp": NOW - 3600},
    "no expiry": {"exp": ...},
    "expiry as text": {"exp": "9999999999"},
    "expiry as true": {"exp": True},
    "not yet valid": {"nbf": NOW + 3600},
    "issued in the future": {"iat": NOW + 3600},
    "issued long ago": {"iat": NOW - 86_400},
    "no time of issue": {"iat": ...},
    "no subject": {"sub": ...},
    "empty subject": {"sub": ""},
    "subject as a number": {"sub": 7},
    "long subject": {"sub": "x" * 256},
    "subject with a line break": {"sub": "a\nb"},
    "hash of another access token": {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"},
}


def part(value: Any) -> str:
    """A segment of a compact JWS."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def unsigned(claims: dict[str, Any], state: ProviderState, algorithm: str = "none") -> str:
    return f"{part({'alg': algorithm, 'kid': state.keys[0].kid})}.{part(claims)}."


def by_secret(secret: bytes) -> Callable[[dict[str, Any], ProviderState], str]:
    def sign(claims: dict[str, Any], state: ProviderState) -> str:
        text = f"{part({'alg': 'HS256', 'kid': state.keys[0].kid})}.{part(claims)}"
        return f"{text}.{part(hmac.new(secret, text.encode(), hashlib.sha256).digest())}"

    return sign


def by_public_key(claims: dict[str, Any], state: ProviderState) -> str:
    """HS/RS confusion: the public key's text as an HMAC secret."""
    return by_secret(state.keys[0].as_pem(private=False))(claims, state)


def with_header(**header: Any) -> Callable[[dict[str, Any], ProviderState], str]:
    """Rightly signed, with other members in the header."""

    def sign(claims: dict[str, Any], state: ProviderState) -> str:
        head = part({"alg": "RS256", "kid": state.keys[0].kid, **header})
        text = f"{head}.{part(claims)}"
        whole = jwt.encode({"alg": "RS256"}, claims, state.keys[0])
        return f"{text}.{whole.rpartition('.')[2]}"

    return sign


def by_own_key(claims: dict[str, Any], state: ProviderState) -> str:
    """A key of the attacker's under the provider's key id, offered in the header too."""
    key = new_key(str(state.keys[0].kid))
    head = {"alg": "RS256", "kid": key.kid, "jwk": key.as_dict(private=False)}
    return jwt.encode(head, claims, key)


def unknown_key(claims: dict[str, Any], state: ProviderState) -> str:
    key = new_key("../../dev/null")
    return jwt.encode({"alg": "RS256", "kid": key.kid}, claims, key)


def changed(claims: dict[str, Any], state: ProviderState) -> str:
    """Signed, then given to somebody else."""
    head, _, signature = jwt.encode({"alg": "RS256", "kid": state.keys[0].kid}, claims, state.keys[0]).split(
        "."
    )
    return f"{head}.{part({**claims, 'sub': 'sub-victim'})}.{signature}"


BAD_SIGNATURES: dict[str, Callable[[dict[str, Any], ProviderState], Any]] = {
    "alg none": unsigned,
    "alg None": lambda claims, state: unsigned(claims, state, "None"),
    "alg empty": lambda claims, state: unsigned(claims, state, ""),
    "HS256 with the client's secret": by_secret(CLIENT_SECRET.encode()),
    "HS256 with an empty secret": by_secret(b""),
    "HS256 with the public key": by_public_key,
    "attacker's key": by_own_key,
    "unknown key id": unknown_key,
    "changed after signing": changed,
    "critical header that nobody knows": with_header(crit=["x"], x=1),
    "key id of another type": with_header(kid={"a": 1}),
    "RS512 named for an RS256 signature": with_header(alg="RS512"),
    "algorithm of another type": with_header(alg=["RS256"]),
    "encrypted": lambda claims, state: "a.b.c.d.e",
    "not a token": lambda claims, state: "x",
    "nothing": lambda claims, state: "",
    "too long": lambda claims, state: "a" * 100_000 + ".b.c",
    "claims that are a list": lambda claims, state: jws([1], state),
    "claims that are deep": lambda claims, state: jws(b"[" * 50_000, state),
}


def jws(payload: Any, state: ProviderState) -> str:
    """Any payload, rightly signed."""
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return signatures.serialize_compact({"alg": "RS256", "kid": state.keys[0].kid}, raw, state.keys[0])
