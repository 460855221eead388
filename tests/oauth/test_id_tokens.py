"""ID tokens: the ones that hold, and each way of forging or bending one."""

from __future__ import annotations

import time
import warnings
from typing import Any

import pytest
from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, OKPKey
from joserfc.jws import JWSRegistry

from geko_proxy.oauth.errors import OAuthFailed
from geko_proxy.oauth.id_tokens import KEY_TYPE_OF, Expected, verify
from geko_proxy.oauth.keys import SigningKey, read_key
from tests.id_token_attacks import BAD_CLAIMS, BAD_SIGNATURES
from tests.oidc_provider import CLIENT_ID, ProviderState, new_key

ISSUER = "https://id.test"
EXPECTED = Expected((ISSUER,), CLIENT_ID, "nonce", "access")
STATE = ProviderState(keys=[new_key("key-1")])


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    whole = {"iss": ISSUER, "aud": CLIENT_ID, "sub": "s", "nonce": "nonce", "iat": now, "exp": now + 60}
    return {name: value for name, value in {**whole, **changes}.items() if value is not ...}


async def find_key(kid: object, key_type: str) -> SigningKey:
    assert (kid, key_type) == ("key-1", "RSA")
    key = read_key(STATE.keys[0].as_dict(private=False))
    assert key is not None
    return key


def signed(value: dict[str, Any]) -> str:
    return jwt.encode({"alg": "RS256", "kid": "key-1"}, value, STATE.keys[0])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"aud": [CLIENT_ID]},
        {"aud": [CLIENT_ID, "another"], "azp": CLIENT_ID},
    ],
)
async def test_tokens_that_hold(changes: dict[str, Any]) -> None:
    assert (await verify(signed(claims(**changes)), find_key, EXPECTED))["sub"] == "s"


@pytest.mark.parametrize(("name", "seconds"), [("exp", -30), ("iat", 30), ("iat", 0.5)])
async def test_clocks_differ(name: str, seconds: float) -> None:
    token = signed(claims(**{name: int(time.time()) + seconds}))
    assert (await verify(token, find_key, EXPECTED))["sub"] == "s"


async def test_members_of_a_providers_own_in_the_header() -> None:
    token = jwt.encode({"alg": "RS256", "kid": "key-1", "x5t": "a", "own": "b" * 1000}, claims(), STATE.keys[0],
                       registry=lenient())  # fmt: skip
    assert (await verify(token, find_key, EXPECTED))["sub"] == "s"


def lenient() -> Any:
    registry = JWSRegistry(strict_check_header=False)
    registry.max_header_length = 8192
    return registry


@pytest.mark.parametrize(
    "name", [name for name in BAD_CLAIMS if "subject" not in name or name == "no subject"]
)
async def test_claims_that_do_not_fit(name: str) -> None:
    with pytest.raises(OAuthFailed) as found:
        await verify(signed(claims(**BAD_CLAIMS[name])), find_key, EXPECTED)
    assert found.value.code == "untrusted_reply"


@pytest.mark.parametrize("name", [name for name in BAD_SIGNATURES if "key id" not in name])
async def test_forged_tokens(name: str) -> None:
    with pytest.raises(OAuthFailed) as found:
        await verify(BAD_SIGNATURES[name](claims(), STATE), find_key, EXPECTED)
    assert found.value.code == "untrusted_reply"


@pytest.mark.parametrize("token", [None, 5, {"a": 1}, ["a.b.c"], "é.é.é"])
async def test_what_is_no_token(token: object) -> None:
    with pytest.raises(OAuthFailed, match="no ID token"):
        await verify(token, find_key, EXPECTED)


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("ES256", ECKey.generate_key("P-256", {"kid": "k"})),
        ("ES384", ECKey.generate_key("P-384", {"kid": "k"})),
        ("EdDSA", OKPKey.generate_key("Ed25519", {"kid": "k"})),
        ("PS256", new_key("k")),
        ("RS512", new_key("k")),
    ],
)
async def test_other_algorithms(algorithm: str, key: Any) -> None:
    published = {name: value for name, value in key.as_dict(private=False).items() if name != "alg"}

    async def find(kid: object, key_type: str) -> SigningKey:
        assert (kid, key_type) == ("k", KEY_TYPE_OF[algorithm])
        found = read_key(published)
        assert found is not None
        return found

    plain = type(key).import_key({**key.as_dict(private=True), "alg": algorithm})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)
        token = jwt.encode({"alg": algorithm, "kid": "k"}, claims(), plain, algorithms=[algorithm])
    assert (await verify(token, find, EXPECTED))["sub"] == "s"
