"""The keys with which a provider signs ID tokens, kept for a while and fetched anew for a key id that is not known."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Coroutine
from typing import Any, Final

from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey, import_key

from geko_proxy.oauth.errors import OAuthFailed, unavailable, untrusted
from geko_proxy.oauth.single_flight import SingleFlight

TTL_S: Final = 3600.0
RETRY_S: Final = 30.0  # a token with an invented key id must not make GEKO ask the provider each time
MAX_KEYS: Final = 100
MIN_RSA_BITS: Final = 2048  # RFC 7518, 3.3
KEY_TYPES: Final = ("RSA", "EC", "OKP")  # never "oct": a shared secret signs nothing here

Fetch = Callable[[], Coroutine[Any, Any, dict[str, Any]]]
SigningKey = RSAKey | ECKey | OKPKey


class KeyCache:
    """fetch: gets the provider's JWK set. clock: a monotonic time in seconds."""

    def __init__(self, fetch: Fetch, clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch
        self._clock = clock
        self._keys: list[SigningKey] = []
        self._fetched_at: float | None = None
        self._flight = SingleFlight(self._refresh)

    async def find(self, kid: object, key_type: str) -> SigningKey:
        """The key of a token's header. kid None: the only key of the type.

        Raises OAuthFailed: "untrusted_reply" when there is no such key, "provider_unavailable".
        """
        if self._age() > TTL_S:
            await self._flight.run()
        key = self._pick(kid, key_type)
        if key is None and self._age() > RETRY_S:
            await self._flight.run()
            key = self._pick(kid, key_type)
        if key is None:
            raise untrusted("the ID token is signed with a key that the provider does not publish")
        return key

    def _age(self) -> float:
        return float("inf") if self._fetched_at is None else self._clock() - self._fetched_at

    async def _refresh(self) -> None:
        try:
            keys = read_keys(await self._fetch())
        except OAuthFailed:
            if self._keys and self._age() < 24 * TTL_S:
                return  # the keys known so far are no worse because the provider is down
            raise
        self._keys, self._fetched_at = keys, self._clock()

    def _pick(self, kid: object, key_type: str) -> SigningKey | None:
        fitting = [key for key in self._keys if key.key_type == key_type]
        if kid is not None:
            fitting = [key for key in fitting if key.kid == kid]
        # OpenID Connect Core, 10.1: without a kid there must be no choice
        return fitting[0] if len(fitting) == 1 or (fitting and kid is not None) else None


def read_keys(value: dict[str, Any]) -> list[SigningKey]:
    """The public signing keys of a JWK set (RFC 7517); what can't be used is left out. Raises OAuthFailed."""
    listed = value.get("keys")
    if not isinstance(listed, list):
        raise unavailable("the key set has no list of keys")
    return [key for each in listed[:MAX_KEYS] if (key := read_key(each)) is not None]


def read_key(value: Any) -> SigningKey | None:
    """A public signing key, or None for anything else."""
    if not isinstance(value, dict) or value.get("kty") not in KEY_TYPES:
        return None
    operations = value.get("key_ops", ["verify"])
    if value.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", SecurityWarning)
            key: Key = import_key(value, value["kty"])
            strong = not isinstance(key, RSAKey) or key.public_key.key_size >= MIN_RSA_BITS
    except (JoseError, SecurityWarning, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None
    return key if strong and isinstance(key, SigningKey) else None
