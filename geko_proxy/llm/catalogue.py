"""Which models a workspace sees of a provider: LibreChat's own list and check follow it (contract §4.2)."""

from __future__ import annotations

from geko_proxy.exchange import Reply
from geko_proxy.llm.pool import ProviderPool
from geko_proxy.workspaces.config import WorkspaceConfig


class Catalogue:
    """Lists models as `GET /models` of the OpenAI API does."""

    def __init__(self, pool: ProviderPool) -> None:
        self._pool = pool

    async def models(self, provider: str, config: WorkspaceConfig | None) -> list[str]:
        """The models of a provider that a workspace may use, its default first. Raises Refused."""
        names = await self._pool.ask_models(provider)
        if config is None:
            return list(names)
        allowed = [name for name in names if config.allows_model(provider, name)]
        return sorted(allowed, key=lambda name: f"{provider}/{name}" != config.default_model)

    async def reply(self, provider: str, config: WorkspaceConfig | None) -> Reply:
        """The list as JSON."""
        rows = [
            {"id": name, "object": "model", "created": 0, "owned_by": provider}
            for name in await self.models(provider, config)
        ]
        return Reply.of_json(200, {"object": "list", "data": rows}, {"Cache-Control": "no-store"})
