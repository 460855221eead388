"""GEKO's own side: settings, database, Redis, clocks."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.exceptions import RedisError

from geko_proxy.config import Settings
from geko_proxy.doctor.findings import Finding, Level, geko
from geko_proxy.errors import ConfigError, GekoError
from geko_proxy.librechat_setup.plan import EVERYWHERE
from geko_proxy.storage.database import Database
from geko_proxy.storage.migrations import MIGRATIONS, pending

ORDER: Final = ("auth", "tenant", "workspace", "quota")
MAX_SKEW_S: Final = 2.0
LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def check_settings(settings: Settings) -> Iterator[Finding]:
    """What `geko check-config` says, and what is only odd: addresses and the order of the filters."""
    try:
        settings.require_serving()
    except ConfigError as error:
        for problem in error.problems:
            yield Finding("settings", problem, "`geko serve` does not start", geko(problem))
    yield from _filters([each.name for each in settings.filters if each.enabled])
    yield from _addresses(settings)


def _filters(names: Sequence[str]) -> Iterator[Finding]:
    missing = [name for name in ORDER if name not in names]
    if missing:
        why = "without them requests are not checked, or not charged"
        change = geko("[[filters]] with " + ", ".join(f'name = "{name}"' for name in missing))
        yield Finding("filters", f"the filters {', '.join(missing)} are off", why, change)
    elif sorted(ORDER, key=names.index) != list(ORDER):
        change = geko(f"[[filters]] in the order {', '.join(ORDER)}")
        why = "each needs what the one before it finds out"
        yield Finding("filter_order", "the filters stand in another order than they need", why, change)


def _addresses(settings: Settings) -> Iterator[Finding]:
    public = settings.server.public_url
    if not public.startswith("https://") and urlsplit(public).hostname not in LOCAL:
        why = "passwords and answers are sent unencrypted, and cookies are not marked Secure"
        change = geko('server.public_url = "https://…", with TLS in front of GEKO')
        yield Finding("public_url", "server.public_url is not https", why, change, Level.WARNING)
    if settings.llm_providers:
        host = settings.llm.host
        if host in EVERYWHERE:
            why = "who has the key may call every model"
            change = geko("llm.host, an address that only LibreChat reaches; or publish port 3003 nowhere")
            yield Finding(
                "llm_host", "the internal listener is open on all addresses", why, change, Level.WARNING
            )
        elif is_public(host):
            change = geko("llm.host, a loopback or private address")
            yield Finding(
                "llm_host", "the internal listener has a public address", "it is for LibreChat", change
            )
    upstream = urlsplit(settings.librechat.url).hostname or ""
    if is_public(upstream):
        why = "whoever reaches it can make an account that nobody limits"
        yield Finding("librechat_url", "LibreChat has a public address", why, "give it a private one")


def is_public(host: str) -> bool:
    """Whether this is an address of the public internet; of names nothing is known."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_global
    except ValueError:
        return False


async def check_database(settings: Settings) -> list[Finding]:
    """Whether it can be reached, is migrated, and has GEKO's time."""
    if not settings.database.url:
        change = geko("database.url (GEKO_DATABASE_URL)")
        return [Finding("database", "there is no database", "GEKO keeps everything there", change)]
    try:
        missing = await pending(settings.database.reaches_server, MIGRATIONS)
        if missing:
            problem = f"the database is not migrated ({', '.join(missing)})"
            return [Finding("migrations", problem, "`geko serve` does not start", "run `geko migrate`")]
        skew = await _skew(settings)
    except (GekoError, OSError) as error:
        why = "GEKO keeps everything there"
        return [Finding("database", f"the database can't be used: {error}", why, geko("database.url"))]
    if abs(skew) <= MAX_SKEW_S:
        return []
    problem = f"the clocks of GEKO and of the database differ by {abs(skew):.1f} s"
    return [
        Finding("clocks", problem, "windows of quotas and tokens end at the wrong time", "run NTP on both")
    ]


async def _skew(settings: Settings) -> float:
    database = await Database.open(
        settings.database.url, max_size=1, statement_cache_size=settings.database.statement_cache_size
    )
    try:
        async with database.system() as system:
            before = time.time()
            theirs = await system.fetch_value(
                "select extract(epoch from clock_timestamp())::double precision"
            )
            return float(theirs) - (before + time.time()) / 2
    finally:
        await database.close()


async def check_redis(settings: Settings) -> list[Finding]:
    """Whether the Redis that is set answers."""
    if not settings.redis.url:
        return []
    redis = Redis.from_url(settings.redis.url, socket_timeout=2.0, socket_connect_timeout=2.0)
    try:
        await redis.ping()
    except (RedisError, OSError):
        why = "each instance then counts requests by itself, and delays after wrong passwords too"
        return [Finding("redis", "Redis does not answer", why, geko("redis.url"))]
    finally:
        await redis.aclose()
    return []
