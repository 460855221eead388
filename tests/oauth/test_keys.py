"""Which keys are taken from a provider, and when it is asked again."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from geko_proxy.oauth.errors import OAuthFailed, unavailable
from geko_proxy.oauth.keys import RETRY_S, TTL_S, KeyCache, read_key, read_keys
from tests.oidc_provider import new_key

KEY = new_key("a")
PUBLIC = KEY.as_dict(private=False)


class Source:
    """A provider's key set, a clock, and how often it was asked."""

    def __init__(self, *keys: Any) -> None:
        self.keys: list[Any] = list(keys)
        self.now = 1000.0
        self.asked = 0
        self.down = False

    async def fetch(self) -> dict[str, Any]:
        self.asked += 1
        if self.down:
            raise unavailable("down")
        return {"keys": self.keys}

    def cache(self) -> KeyCache:
        return KeyCache(self.fetch, lambda: self.now)


async def test_keys_are_kept_and_renewed() -> None:
    source = Source(PUBLIC)
    cache = source.cache()
    for _ in range(3):
        assert (await cache.find("a", "RSA")).kid == "a"
    assert source.asked == 1
    source.now += TTL_S + 1
    await cache.find("a", "RSA")
    assert source.asked == 2


async def test_an_unknown_key_id_makes_it_ask_again_but_not_each_time() -> None:
    source = Source(PUBLIC)
    cache = source.cache()
    await cache.find("a", "RSA")
    source.keys = [new_key("b").as_dict(private=False)]
    for _ in range(20):
        with pytest.raises(OAuthFailed, match="does not publish"):
            await cache.find("b", "RSA")
    assert source.asked == 1
    source.now += RETRY_S + 1
    assert (await cache.find("b", "RSA")).kid == "b"
    with pytest.raises(OAuthFailed):
        await cache.find("a", "RSA")  # taken back by the provider


async def test_known_keys_outlive_a_short_outage() -> None:
    source = Source(PUBLIC)
    cache = source.cache()
    source.down = True
    with pytest.raises(OAuthFailed, match="down"):
        await cache.find("a", "RSA")
    source.down = False
    await cache.find("a", "RSA")
    source.down = True
    source.now += TTL_S + 1
    assert (await cache.find("a", "RSA")).kid == "a"
    source.now += 24 * TTL_S
    with pytest.raises(OAuthFailed, match="down"):
        await cache.find("a", "RSA")


async def test_without_a_key_id_there_must_be_no_choice() -> None:
    source = Source(PUBLIC, ECKey.generate_key("P-256").as_dict(private=False))
    assert (await source.cache().find(None, "RSA")).kid == "a"
    source.keys.append(new_key("b").as_dict(private=False))
    with pytest.raises(OAuthFailed):
        await source.cache().find(None, "RSA")


async def test_a_key_signs_only_with_algorithms_of_its_type() -> None:
    with pytest.raises(OAuthFailed):
        await Source(PUBLIC).cache().find("a", "EC")


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        (PUBLIC, True),
        (ECKey.generate_key("P-256").as_dict(private=False), True),
        (OKPKey.generate_key("Ed25519").as_dict(private=False), True),
        ({**PUBLIC, "use": "enc"}, False),
        ({**PUBLIC, "key_ops": ["encrypt"]}, False),
        ({**PUBLIC, "n": "AQAB"}, False),
        ({**PUBLIC, "n": 5}, False),
        ({**PUBLIC, "e": None}, False),
        ({**PUBLIC, "use": ["sig"]}, False),
        ({**PUBLIC, "key_ops": 5}, False),
        (OctKey.generate_key(256).as_dict(), False),
        ({"kty": "RSA"}, False),
        ({"kty": "x"}, False),
        ({"kty": ["RSA"]}, False),
        ("key", False),
        (None, False),
    ],
)
def test_keys_that_may_sign(value: Any, taken: bool) -> None:
    assert (read_key(value) is not None) is taken


def test_short_keys_are_refused() -> None:
    short = rsa.generate_private_key(65537, 1024).public_key()
    pem = short.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = RSAKey.import_key(pem).as_dict(private=False)
    assert read_key(value) is None


@pytest.mark.parametrize("value", [{}, {"keys": {}}, {"keys": None}])
def test_what_is_no_key_set(value: Any) -> None:
    with pytest.raises(OAuthFailed):
        read_keys(value)


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.sampled_from(["kty", "use", "kid", "n", "e", "x", "y", "crv", "alg", "key_ops"]), json
    ),
    st.sampled_from([PUBLIC, {"kty": "EC", "crv": "P-256"}, {"kty": "OKP", "crv": "Ed25519"}]),
)
def test_no_key_breaks_the_reader(changes: dict[str, Any], base: dict[str, Any]) -> None:
    read_key({**base, **changes})
