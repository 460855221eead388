"""Which models the providers have, as they say themselves: asked once a day, checked, kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from cachetools import TTLCache

from geko_proxy.config.llm_settings import is_model
from geko_proxy.errors import Refused, UpstreamError
from geko_proxy.upstream_connection import UpstreamReply

LIST_TTL_S: Final = 86_400
FAILURE_TTL_S: Final = 30
READ_S: Final = 30.0
MAX_BYTES: Final = 4 * 1024 * 1024
MAX_MODELS: Final = 5000
MAX_PROVIDERS: Final = 1000


class ModelLists:
    """The lists by provider. ask: sends GET /models, raises Refused. A list that is out of date is better than none."""

    def __init__(self, ask: Callable[[str], Awaitable[UpstreamReply]], clock: Callable[[], float]) -> None:
        self._ask = ask
        self._lists: TTLCache[str, tuple[str, ...]] = TTLCache(MAX_PROVIDERS, LIST_TTL_S, clock)
        self._failures: TTLCache[str, Refused] = TTLCache(MAX_PROVIDERS, FAILURE_TTL_S, clock)
        self._last: dict[str, tuple[str, ...]] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def get(self, provider: str) -> tuple[str, ...]:
        """The models of a provider. Raises Refused when there has been no list yet and it can't be asked now."""
        async with self._locks.setdefault(provider, asyncio.Lock()):
            found = self._lists.get(provider)
            if found is None and (failed := self._failures.get(provider)) is None:
                try:
                    found = self._lists[provider] = self._last[provider] = await self._load(provider)
                except Refused as error:
                    failed = self._failures[provider] = error
            if found is not None:
                return found
        if provider in self._last:
            return self._last[provider]
        assert failed is not None
        raise Refused(failed.status, failed.code, failed.message, retry_after_s=failed.retry_after_s)

    async def _load(self, provider: str) -> tuple[str, ...]:
        reply = await self._ask(provider)
        try:
            async with asyncio.timeout(READ_S):
                body = await reply.read(MAX_BYTES)
        except (UpstreamError, TimeoutError):
            raise _unusable() from None
        finally:
            reply.close()
        if reply.status != 200:
            raise _unusable()
        return read_models(body)


def read_models(body: bytes) -> tuple[str, ...]:
    """The ids of a list of models, as OpenAI and Anthropic write it; entries that can't be models are left out.

    Raises Refused 502 when it is no such list.
    """
    try:
        value: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _unusable() from None
    entries = value.get("data") if isinstance(value, dict) else None
    if not isinstance(entries, list):
        raise _unusable()
    names = (entry.get("id") for entry in entries if isinstance(entry, dict))
    return tuple(dict.fromkeys(name for name in names if is_model(name)))[:MAX_MODELS]


def _unusable() -> Refused:
    return Refused(502, "provider_failed", "The provider's list of models can't be read.")
