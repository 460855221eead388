"""Checks ID tokens (OpenID Connect Core 1.0, 3.1.3.7): who signed, for whom, when, and in answer to which request."""

from __future__ import annotations

import time
import warnings
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

from authlib.oidc.core import CodeIDToken  # type: ignore[import-untyped]
from joserfc import jwt
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jws import JWSRegistry, extract_compact

from geko_proxy.oauth.errors import untrusted
from geko_proxy.oauth.keys import SigningKey

# Which type of key an algorithm needs. Not here, so refused: none, and HS*, whose key would be the client's secret
# or, in the well-known confusion, the text of a public key.
KEY_TYPE_OF: Final = {
    "RS256": "RSA", "RS384": "RSA", "RS512": "RSA",
    "PS256": "RSA", "PS384": "RSA", "PS512": "RSA",
    "ES256": "EC", "ES384": "EC", "ES512": "EC",
    "EdDSA": "OKP", "Ed25519": "OKP",
}  # fmt: skip
LEEWAY_S: Final = 60
MAX_AGE_S: Final = 600  # a token in answer to this flow was issued within the flow's life
MAX_LENGTH: Final = 64 * 1024

# providers put certificates and members of their own into the header; "crit" is still checked
REGISTRY: Final = JWSRegistry(algorithms=list(KEY_TYPE_OF), strict_check_header=False)
REGISTRY.max_header_length = 8192

FindKey = Callable[[object, str], Awaitable[SigningKey]]


@dataclass(frozen=True, slots=True)
class Expected:
    """What an ID token must say. access_token: what `at_hash` is of."""

    issuers: Collection[str]
    client_id: str
    nonce: str
    access_token: str


async def verify(token: object, find_key: FindKey, expected: Expected) -> dict[str, Any]:
    """The claims of an ID token that holds. Raises OAuthFailed "untrusted_reply"."""
    if not isinstance(token, str) or len(token) > MAX_LENGTH or not token.isascii():
        raise untrusted("there is no ID token")
    try:
        header = extract_compact(token.encode(), registry=REGISTRY).headers()
        algorithm = header.get("alg")
        key_type = KEY_TYPE_OF.get(algorithm) if isinstance(algorithm, str) else None
        if key_type is None:
            raise untrusted(f"the ID token's algorithm {algorithm!r:.40} is not allowed")
        key = await find_key(header.get("kid"), key_type)
        decoded = decode(token, key, str(algorithm))
        check_claims(decoded.claims, decoded.header, expected)
    except (JoseError, ValueError, TypeError, RecursionError) as error:
        raise untrusted(f"ID token: {type(error).__name__}: {error}") from None
    return dict(decoded.claims)


def decode(token: str, key: SigningKey, algorithm: str) -> jwt.Token:
    """The token, its signature checked. Raises JoseError, ValueError."""
    with warnings.catch_warnings():
        # of the name EdDSA, which RFC 9864 replaces by Ed25519 and providers still use
        warnings.simplefilter("ignore", SecurityWarning)
        return jwt.decode(token, key, algorithms=[algorithm], registry=REGISTRY)


def check_claims(
    claims: dict[str, Any], header: dict[str, Any], expected: Expected, now: float | None = None
) -> None:
    """Raises JoseError or ValueError for claims that do not fit. now: seconds, time.time() when None."""
    at = int(now if now is not None else time.time())
    options = {
        "iss": {"essential": True, "values": list(expected.issuers)},
        "aud": {"essential": True, "value": expected.client_id},
        "sub": {"essential": True},
    }
    params = {
        "nonce": expected.nonce,
        "client_id": expected.client_id,
        "access_token": expected.access_token,
    }
    CodeIDToken(claims, header, options, params).validate(now=at, leeway=LEEWAY_S)
    if claims.get("nonce") != expected.nonce:
        raise ValueError("wrong nonce")
    if not isinstance(claims["iss"], str) or not isinstance(claims["aud"], str | list):
        raise ValueError("iss or aud has a wrong type")
    if isinstance(claims["aud"], list) and len(claims["aud"]) > 1 and "azp" not in claims:
        raise ValueError("several audiences and no azp")
    for name in ("exp", "iat"):
        if isinstance(claims[name], bool) or not isinstance(claims[name], int | float):
            raise ValueError(f"{name} is no time")
    if claims["iat"] < at - MAX_AGE_S - LEEWAY_S:
        raise ValueError("issued before the sign-in began")
