"""What an account may call: GET /api/models, which real endpoints are asked for each time (contract §4.2)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from geko_proxy.demo.librechat import recorded
from geko_proxy.demo.librechat.llm.client import LlmClient

if TYPE_CHECKING:
    from geko_proxy.demo.librechat.server import StandIn


def configured_models(lc: StandIn) -> dict[str, list[str]]:
    """Default lists stand there whether or not their endpoints are shown."""
    return recorded.DEFAULT_MODELS | {endpoint.name: list(endpoint.models) for endpoint in lc.endpoints}


async def listed_models(lc: StandIn, user_id: str) -> dict[str, list[str]]:
    """Models by endpoint, fetched with the account's id in the headers; uncached, since the headers are the user's."""
    provider = lc.provider
    if not isinstance(provider, LlmClient):
        return configured_models(lc)
    asked = [endpoint for endpoint in lc.endpoints if endpoint.fetches]
    lists = await asyncio.gather(*(provider.models(endpoint, user_id) for endpoint in asked))
    found = {endpoint.name: list(models) for endpoint, models in zip(asked, lists, strict=True)}
    return configured_models(lc) | found
