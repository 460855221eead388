"""Whether GEKO lives and whether it can serve: /healthz, /readyz, and /health in LibreChat's shape."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiohttp import web

from geko_proxy.errors import StoreError
from geko_proxy.exchange import Exchange, Reply
from geko_proxy.storage.migrations import MIGRATIONS, pending

if TYPE_CHECKING:
    from geko_proxy.services import Services

log = logging.getLogger("geko.health")

FRESH_S: Final = 1.0  # anybody may ask: a flood of questions must not become a flood of checks
TIMEOUT_S: Final = 5.0


class Health:
    """The endpoints for load balancers and orchestrators. migrations: the folder of the SQL files."""

    def __init__(self, services: Services, migrations: Path = MIGRATIONS) -> None:
        self._services = services
        self._migrations = migrations
        self._migrated = False
        self._checks: dict[str, str] = {}
        self._checked_at = float("-inf")
        self._lock = asyncio.Lock()

    async def health(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 "OK", which LibreChat's client asks for while it waits."""
        reply = Reply.of_text(200, "OK")
        reply.headers["Content-Type"] = "text/html; charset=utf-8"
        return reply

    async def alive(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 as long as the process answers."""
        return Reply.of_json(200, {"status": "ok"}, {"Cache-Control": "no-store"})

    async def ready(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 when database, migrations and LibreChat are as they must be, else 503; the body says which is not."""
        async with self._lock:
            if time.monotonic() - self._checked_at >= FRESH_S:
                self._checks = await self._check()
                self._checked_at = time.monotonic()
        is_ready = all(found == "ok" for found in self._checks.values())
        value = {"status": "ready" if is_ready else "not_ready", "checks": self._checks}
        return Reply.of_json(200 if is_ready else 503, value, {"Cache-Control": "no-store"})

    async def _check(self) -> dict[str, str]:
        services = self._services
        database, migrations, librechat = await asyncio.gather(
            outcome("database", services.database.ping()),
            outcome("migrations", self._check_migrations()),
            outcome("librechat", self._check_librechat()),
        )
        return {"database": database, "migrations": migrations, "librechat": librechat}

    async def _check_migrations(self) -> None:
        if self._migrated:
            return  # they only go forward
        missing = await pending(self._services.settings.database.reaches_server, self._migrations)
        if missing:
            raise StoreError(f"not applied: {', '.join(missing)}")
        self._migrated = True

    async def _check_librechat(self) -> None:
        if not await self._services.client.is_ready():
            raise StoreError("LibreChat is not ready")


async def outcome(name: str, check: Awaitable[None]) -> str:
    """ "ok" or "failed"; why is in the log, not for everybody."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await check
    except Exception as error:  # noqa: BLE001  whatever it is, GEKO is not ready
        log.warning("not ready: %s: %s", name, str(error) or type(error).__name__)
        return "failed"
    return "ok"
