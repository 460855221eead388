"""Keeps the ledger's monthly partitions: makes the next ones ahead of time, drops those past the retention.

Every instance does it at its start and then once a day: the functions of sql/0011 do nothing where it is done already.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Final

import asyncpg

from geko_proxy.errors import StoreError
from geko_proxy.storage.database import Database, System

log = logging.getLogger("geko.ledger")

DAY_S: Final = 86_400.0
RETRY_S: Final = 60.0
MONTHS_AHEAD: Final = 2  # an installation may be stopped over the turn of a month, or its clock be wrong
# Attaching and dropping wait for what uses the ledger, and all else waits behind them: not for long.
LOCK_TIMEOUT: Final = "select set_config('lock_timeout', '2s', true)"
MAKE: Final = "select make_usage_partition($1)"
DROP: Final = "select name from drop_usage_partitions($1) as d (name)"


class LedgerUpkeep:
    """The background work. retention_months: whole months kept beside the current one; 0: all."""

    def __init__(
        self,
        database: Database,
        retention_months: int = 0,
        today: Callable[[], date] = lambda: datetime.now(UTC).date(),
    ) -> None:
        self._database = database
        self._retention_months = retention_months
        self._today = today
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Do it now and then daily; GEKO serves even when it can't be done, into the default partition."""
        self._task = asyncio.create_task(self._keep_running(), name="ledger upkeep")

    async def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def run(self) -> tuple[list[str], list[str]]:
        """Make and drop what is due; the names of the partitions. Raises StoreError, asyncpg.PostgresError."""
        today, made, dropped = self._today(), [], []
        for ahead in range(MONTHS_AHEAD + 1):
            async with self._database.system() as system:
                await system.execute(LOCK_TIMEOUT)
                name = await system.fetch_value(MAKE, month_after(today, ahead))
            if name is not None:
                made.append(str(name))
        if self._retention_months:
            async with self._database.system() as system:
                dropped = await drop_before(system, month_after(today, -self._retention_months))
        for name in made:
            log.info("the ledger has a new partition: %s", name)
        for name in dropped:
            log.warning("the ledger's partition %s is older than the retention and dropped", name)
        return made, dropped

    async def _keep_running(self) -> None:
        while True:
            pause_s = DAY_S
            try:
                await self.run()
            except (StoreError, asyncpg.PostgresError) as error:
                pause_s = RETRY_S
                log.warning("the ledger's partitions are looked after later: %s", error)
            await asyncio.sleep(pause_s)


async def drop_before(system: System, day: date) -> list[str]:
    """Drop the partitions of months that ended before a day; their names."""
    await system.execute(LOCK_TIMEOUT)
    return [row["name"] for row in await system.fetch(DROP, day)]


def month_after(day: date, months: int) -> date:
    """The first day of the month so many months after (or before) that of a day."""
    number = day.year * 12 + day.month - 1 + months
    return date(number // 12, number % 12 + 1, 1)
