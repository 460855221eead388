"""Rate limits by named rules: per client address before sign-in, per person, API key and workspace after it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from redis.exceptions import RedisError

from geko_proxy.addresses import network_of
from geko_proxy.filters.base import Exchange, Filter, Refused, Reply, Route
from geko_proxy.filters.rate_counters import Asked, MemoryCounters, RedisCounters, Verdict
from geko_proxy.filters.rate_rules import KINDS, RateRule, kind_of, read_rules

if TYPE_CHECKING:
    from geko_proxy.services import Services

log = logging.getLogger("geko.filters.rate_limit")

REDIS_RETRY_S = 5.0
RENEW_S = 20.0  # a third of a turn's lease
DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class RateLimitOptions:
    """limit: requests per window and client address; window_s: length of the window in seconds. rules: further
    limits by = "ip"; one that is called "default" takes the place of the first.
    """

    limit: int = 100
    window_s: int = 60
    rules: tuple[RateRule, ...] = ()

    def __post_init__(self) -> None:
        for name in ("limit", "window_s"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
        rules = read_rules(self.rules, ("ip",))
        if not any(rule.name == DEFAULT for rule in rules):
            rules = (RateRule(DEFAULT, "ip", self.limit, window_s=self.window_s), *rules)
        object.__setattr__(self, "rules", rules)


@dataclass(frozen=True, slots=True)
class UserRateLimitOptions:
    """rules: limits by = "user", "key" (API keys) or "workspace"; there are none unless they are named here."""

    rules: tuple[RateRule, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", read_rules(self.rules, ("user", "key", "workspace")))


@dataclass(frozen=True, slots=True)
class Plan:
    """The rules for one kind of request. only: the one rule, when it counts requests by address; header: its policy."""

    rules: tuple[RateRule, ...]
    only: RateRule | None
    header: tuple[str, str]

    @classmethod
    def of(cls, rules: Sequence[RateRule], kind: str) -> Plan:
        """The plan for a kind."""
        covering = tuple(rule for rule in rules if rule.covers(kind))
        simple = len(covering) == 1 and covering[0].by == "ip" and covering[0].count == "requests"
        header = ("RateLimit-Policy", ", ".join(rule.policy for rule in covering))
        return cls(covering, covering[0] if simple else None, header)


class RateLimitFilter(Filter):
    """Refuses with 429 what exceeds a rule by client address. The web client's own files do not count."""

    name: ClassVar[str] = "rate_limit"
    Options: ClassVar[type] = RateLimitOptions
    # the LLM side has one caller, LibreChat, which calls for everybody
    routes: ClassVar[frozenset[Route]] = frozenset(Route) - {Route.ASSET, Route.LLM}

    def __init__(self, options: RateLimitOptions | UserRateLimitOptions, services: Services) -> None:
        super().__init__(options, services)
        self._by_kind = {kind: Plan.of(options.rules, kind) for kind in KINDS}
        self._plans: dict[str, tuple[Route, Plan]] = {}  # by operation
        self._counts_turns = any(rule.count == "turns" for rule in options.rules)
        self._memory = MemoryCounters()
        self._shared = RedisCounters(services.redis) if services.redis is not None else None
        self._redis_down_until = 0.0
        self._held: dict[str, list[Asked]] = {}  # turns of this process that run, by their exchange's id
        self._renewing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._counts_turns and self._shared is not None:
            self._renewing = asyncio.create_task(self._renew(self._shared), name="turns of rate limits")

    async def stop(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)

    async def on_request(self, exchange: Exchange) -> Reply | None:
        if exchange.hop is not None:  # the instance that passes it on has counted it
            return None
        known = self._plans.get(exchange.operation)
        if known is not None and known[0] is exchange.route:
            plan = known[1]
        else:
            plan = self._by_kind[kind_of(exchange)]
            self._plans[exchange.operation] = (exchange.route, plan)
        if plan.only is not None and self._shared is None and exchange.parent is None:
            address = network_of(exchange.request.client_ip)
            verdict = self._memory.hit_one(plan.only, address, exchange.started_at)
            exchange.limit_headers += (plan.header, ("RateLimit", _item(verdict)))
            if verdict.wait_s:
                raise too_many([verdict], verdict.wait_s)
        elif plan.rules:
            await self._limit(exchange, plan.rules)
        return None

    async def _limit(self, exchange: Exchange, rules: Sequence[RateRule]) -> None:
        """Hold a request to several rules, or to counts that are shared."""
        if exchange.parent is not None:  # the message of an endpoint whose own request was counted
            parent = kind_of(exchange.parent)
            rules = [rule for rule in rules if not rule.covers(parent)]
        asked = self._asked(exchange, rules)
        if not asked:
            return
        verdicts = await self._hit(asked, exchange)
        exchange.limit_headers += limit_headers(verdicts)
        wait_s = max([verdict.wait_s for verdict in verdicts])
        if wait_s:
            raise too_many(verdicts, wait_s)
        if self._counts_turns:
            turns = [each for each in asked if each.rule.count == "turns"]
            if turns:
                self._held[exchange.id] = turns

    async def on_finish(self, exchange: Exchange) -> None:
        if not self._counts_turns or exchange.route is not Route.CHAT:
            return
        held = self._held.pop(exchange.id, ())
        for asked in held:
            self._memory.release(asked, exchange.id)
        if not held or self._shared is None or time.time() < self._redis_down_until:
            return
        try:
            for asked in held:
                await self._shared.release(asked, exchange.id)
        except (RedisError, OSError) as error:
            self._failed(error)  # what is left there counts until its lease ends

    def _asked(self, exchange: Exchange, rules: Sequence[RateRule]) -> list[Asked]:
        address = network_of(exchange.request.client_ip)
        return [Asked(rule, address, address) for rule in rules]

    async def _hit(self, asked: list[Asked], exchange: Exchange) -> list[Verdict]:
        now = exchange.started_at
        if self._shared is not None and now >= self._redis_down_until:
            try:
                verdicts = await self._shared.hit(asked, now, exchange.id)
            except (RedisError, OSError) as error:
                self._failed(error)
            else:
                if self._counts_turns and not any(verdict.wait_s for verdict in verdicts):
                    for each in asked:
                        if each.rule.count == "turns":
                            self._memory.hold(each, exchange.id)  # for the case that Redis fails
                return verdicts
        return self._memory.hit(asked, now, exchange.id)

    def _failed(self, error: Exception) -> None:
        """Without Redis each process limits on its own (design §7)."""
        self._redis_down_until = time.time() + REDIS_RETRY_S
        log.warning("Redis failed (%s): limiting in this process", error)

    async def _renew(self, shared: RedisCounters) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                await shared.renew(dict(self._held))
            except (RedisError, OSError) as error:
                log.warning("Redis failed (%s): the leases of running turns were not prolonged", error)


class UserRateLimitFilter(RateLimitFilter):
    """Refuses with 429 what exceeds a rule by person, API key or workspace; stands after `workspace`."""

    name: ClassVar[str] = "rate_limit_user"
    Options: ClassVar[type] = UserRateLimitOptions
    routes: ClassVar[frozenset[Route]] = frozenset(
        {
            Route.CHAT,
            Route.STREAM,
            Route.CONTROL,
            Route.DISCOVERY,
            Route.API,
            Route.AGENTS_API,
            Route.MEDIA,
            Route.OWN,
        }
    )

    def _asked(self, exchange: Exchange, rules: Sequence[RateRule]) -> list[Asked]:
        identity = exchange.user
        if identity is None:  # LibreChat's sign-in page
            return []
        keys = {
            "user": identity.user_id,
            "workspace": identity.workspace_id,
            "key": None if exchange.api_key is None else exchange.api_key.key_id,
        }
        tag = str(identity.tenant_id)
        return [Asked(rule, str(keys[rule.by]), tag) for rule in rules if keys[rule.by] is not None]


def limit_headers(verdicts: Sequence[Verdict]) -> tuple[tuple[str, str], ...]:
    """RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers-10 §§3, 4)."""
    policy = ", ".join([verdict.rule.policy for verdict in verdicts])
    return ("RateLimit-Policy", policy), ("RateLimit", ", ".join([_item(each) for each in verdicts]))


def _item(verdict: Verdict) -> str:
    item = f'"{verdict.rule.name}";r={verdict.remaining}'
    return item if verdict.reset_s is None else f"{item};t={verdict.wait_s or verdict.reset_s}"


def too_many(verdicts: Sequence[Verdict], wait_s: int) -> Refused:
    """429 that names the rules that are exceeded."""
    rules = [verdict.rule for verdict in verdicts if verdict.wait_s]
    text = f"Too many requests. Try again in {wait_s} second{'s' if wait_s != 1 else ''}."
    if all(rule.count == "turns" for rule in rules):
        text = f"Only {min(rule.limit for rule in rules)} answers may run at the same time here."
    details = {"rules": [rule.name for rule in rules]}
    return Refused(429, "rate_limited", text, details=details, retry_after_s=wait_s)
