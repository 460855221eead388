"""The chain's promises: order, policy, exactly-once finish, no cost where nobody listens."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from geko_proxy.errors import EndStream, FilterError, Refused, StoreError
from geko_proxy.exchange import Exchange, Reply, Request, Route
from geko_proxy.filters.base import EventHook, Failure, Filter
from geko_proxy.filters.chain import Chain, Entry
from geko_proxy.services import Services
from geko_proxy.sse import SseEvent

NO_SERVICES = cast(Services, None)
EVENT = SseEvent(b"data: 1\n\n")


def make_exchange(route: Route = Route.CHAT) -> Exchange:
    request = Request("GET", "/", "", CIMultiDictProxy(CIMultiDict()))
    return Exchange("x1", request, route, "test", {}, 0.0)


class Recorder(Filter):
    """Writes down which of its hooks ran."""

    name: ClassVar[str] = "recorder"
    seen: ClassVar[list[str]] = []

    def __init__(self, label: str) -> None:
        super().__init__(None, NO_SERVICES)
        self.label = label

    async def start(self) -> None:
        self.seen.append(f"start {self.label}")

    async def stop(self) -> None:
        self.seen.append(f"stop {self.label}")

    async def on_request(self, exchange: Exchange) -> Reply | None:
        self.seen.append(f"request {self.label}")
        return None

    async def on_reply(self, exchange: Exchange) -> Reply | None:
        self.seen.append(f"reply {self.label}")
        return None

    def on_stream(self, exchange: Exchange) -> EventHook | None:
        async def note(event: SseEvent) -> Sequence[SseEvent] | None:
            self.seen.append(f"event {self.label}")
            return None

        return note

    async def on_finish(self, exchange: Exchange) -> None:
        self.seen.append(f"finish {self.label}")


@pytest.fixture(autouse=True)
def _clean() -> None:
    Recorder.seen.clear()


def chain_of(*filters: Filter, failure: Failure = Failure.CLOSED, timeout_ms: int | None = None) -> Chain:
    return Chain([Entry(each, failure, timeout_ms) for each in filters])


async def test_requests_run_down_and_the_rest_runs_up() -> None:
    chain = chain_of(Recorder("a"), Recorder("b"))
    exchange = make_exchange()
    await chain.start()
    await chain.request(exchange)
    await chain.reply(exchange, Reply(200))
    hooks = chain.events(exchange)
    assert hooks is not None
    assert await hooks.run(EVENT) == [EVENT]
    await chain.finish(exchange)
    await chain.stop()
    assert Recorder.seen == [
        "start a", "start b", "request a", "request b", "reply b", "reply a", "event b", "event a",
        "finish b", "finish a", "stop b", "stop a",
    ]  # fmt: skip


async def test_routes_that_nobody_asked_for_cost_nothing() -> None:
    chain = chain_of(Recorder("a"))
    exchange = make_exchange(Route.ASSET)
    assert await chain.request(exchange) is None
    assert chain.events(exchange) is None
    await chain.finish(exchange)
    assert Recorder.seen == []


class Broken(Filter):
    """Fails in every hook."""

    name: ClassVar[str] = "broken"

    def __init__(self) -> None:
        super().__init__(None, NO_SERVICES)

    async def on_request(self, exchange: Exchange) -> Reply | None:
        raise RuntimeError("request")

    async def on_reply(self, exchange: Exchange) -> Reply | None:
        raise RuntimeError("reply")

    def on_stream(self, exchange: Exchange) -> EventHook | None:
        async def fail(event: SseEvent) -> Sequence[SseEvent] | None:
            raise RuntimeError("event")

        return fail

    async def on_finish(self, exchange: Exchange) -> None:
        raise RuntimeError("finish")


async def test_a_database_that_is_away_is_no_failure_of_the_filter() -> None:
    """It becomes 503 with Retry-After, not 502; in mid-stream the answer ends as for any failure."""

    class Away(Broken):
        async def on_request(self, exchange: Exchange) -> Reply | None:
            raise StoreError("away")

        async def on_reply(self, exchange: Exchange) -> Reply | None:
            raise StoreError("away")

        def on_stream(self, exchange: Exchange) -> EventHook | None:
            async def fail(event: SseEvent) -> Sequence[SseEvent] | None:
                raise StoreError("away")

            return fail

    chain, exchange = chain_of(Away()), make_exchange()
    with pytest.raises(StoreError):
        await chain.request(exchange)
    with pytest.raises(StoreError):
        await chain.reply(exchange, Reply(200))
    hooks = chain.events(exchange)
    assert hooks is not None
    with pytest.raises(FilterError):
        await hooks.run(EVENT)


async def test_a_closed_filter_stops_the_exchange() -> None:
    chain, exchange = chain_of(Broken(), Recorder("a")), make_exchange()
    with pytest.raises(FilterError) as caught:
        await chain.request(exchange)
    assert caught.value.filter_name == "broken"
    with pytest.raises(FilterError):
        await chain.reply(exchange, Reply(200))
    hooks = chain.events(exchange)
    assert hooks is not None
    with pytest.raises(FilterError):
        await hooks.run(EVENT)
    await chain.finish(exchange)
    assert Recorder.seen == ["reply a", "event a", "finish a"]
    assert chain.failures == {"broken": 4, "recorder": 0}


async def test_an_open_filter_is_passed_over_and_counted() -> None:
    chain, exchange = chain_of(Broken(), Recorder("a"), failure=Failure.OPEN), make_exchange()
    assert await chain.request(exchange) is None
    assert (await chain.reply(exchange, Reply(201))).status == 201
    hooks = chain.events(exchange)
    assert hooks is not None
    for _ in range(3):
        assert list(await hooks.run(EVENT)) == [EVENT]
    assert chain.failures["broken"] == 3  # a failed event hook is not asked again
    assert Recorder.seen == ["request a", "reply a", "event a", "event a", "event a"]


async def test_refusals_are_no_failures_even_of_an_open_filter() -> None:
    class Refusing(Filter):
        name: ClassVar[str] = "refusing"

        async def on_request(self, exchange: Exchange) -> Reply | None:
            raise Refused(403, "no", "No.")

        def on_stream(self, exchange: Exchange) -> EventHook | None:
            async def end(event: SseEvent) -> Sequence[SseEvent] | None:
                raise EndStream(notice="over")

            return end

    chain, exchange = chain_of(Refusing(None, NO_SERVICES), failure=Failure.OPEN), make_exchange()
    with pytest.raises(Refused):
        await chain.request(exchange)
    hooks = chain.events(exchange)
    assert hooks is not None
    with pytest.raises(EndStream):
        await hooks.run(EVENT)


async def test_events_can_be_dropped_inserted_and_changed() -> None:
    class Doubling(Filter):
        name: ClassVar[str] = "doubling"

        def on_stream(self, exchange: Exchange) -> EventHook | None:
            async def double(event: SseEvent) -> Sequence[SseEvent] | None:
                return (event, event) if event.data == b"1" else ()

            return double

    one, two = Doubling(None, NO_SERVICES), Doubling(None, NO_SERVICES)
    hooks = Chain([Entry(one, Failure.CLOSED), Entry(two, Failure.CLOSED)]).events(make_exchange())
    assert hooks is not None
    assert len(await hooks.run(EVENT)) == 4
    assert list(await hooks.run(SseEvent(b"data: 2\n\n"))) == []


async def test_a_hook_that_hangs_is_a_failure() -> None:
    class Hanging(Filter):
        name: ClassVar[str] = "hanging"

        async def on_request(self, exchange: Exchange) -> Reply | None:
            await asyncio.sleep(60)
            return None

    with pytest.raises(FilterError):
        await chain_of(Hanging(None, NO_SERVICES), timeout_ms=10).request(make_exchange())


async def test_a_failed_start_stops_what_was_started() -> None:
    class NoStart(Filter):
        name: ClassVar[str] = "no_start"

        async def start(self) -> None:
            raise OSError("no")

    with pytest.raises(OSError, match="no"):
        await chain_of(Recorder("a"), Recorder("b"), NoStart(None, NO_SERVICES)).start()
    assert Recorder.seen == ["start a", "start b", "stop b", "stop a"]


def test_a_misspelt_hook_is_found_at_import() -> None:
    with pytest.raises(TypeError, match="on_reponse is no hook"):
        type("Typo", (Filter,), {"name": "typo", "on_reponse": cast(Any, lambda self: None)})
