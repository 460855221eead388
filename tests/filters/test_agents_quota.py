"""The quota filter on the Agents API, where LibreChat does not behave; the usual way is tested end to end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from multidict import CIMultiDict

from geko_proxy.config import Settings
from geko_proxy.errors import EndStream, UpstreamError
from geko_proxy.exchange import Exchange, Reply
from geko_proxy.filters.agents_quota import is_answer
from geko_proxy.filters.quota import QuotaFilter, QuotaOptions
from geko_proxy.metering.leases import Amount, Granted, Lease, NewTurn
from geko_proxy.metering.ledger import Charge
from geko_proxy.metering.lifecycle import Outcome
from geko_proxy.metering.limits import Hold
from geko_proxy.metering.tokens import TokenCounter
from geko_proxy.services import Services
from geko_proxy.sse import SseParser
from tests.fake_services import ACME, exchange_of
from tests.filters.test_quota import NoLimits

CHAT = "/api/agents/v1/chat/completions"


class Source:
    """A body in pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.closed = False

    async def read_chunk(self) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    def close(self) -> None:
        self.closed = True


class Leases:
    """Grants what is needed and 20 tokens, and nothing after that."""

    def __init__(self) -> None:
        self.settled: list[tuple[Outcome, list[Charge]]] = []

    async def begin(
        self, turn: NewTurn, holds: tuple[Hold, ...], need: Amount, allowance: Amount, *_: int
    ) -> Lease:
        return Lease(turn, holds, Amount(need.tokens + 20))

    async def top_up(self, lease: Lease, need: Amount, step: Amount, consumed: Amount) -> Granted:
        return Granted(0)

    async def settle(
        self, lease: Lease, outcome: Outcome, charges: list[Charge], *, recovering: bool = False
    ) -> None:
        self.settled.append((outcome, charges))


def data(value: Any) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def chunk(text: str, finish: str | None = None) -> bytes:
    return data({"id": "c", "choices": [{"delta": {"content": text}, "finish_reason": finish}]})


def replied(exchange: Exchange, source: Source) -> Reply:
    reply = Reply(200, CIMultiDict({"Content-Type": "text/event-stream"}), source=source)
    exchange.reply = reply
    return reply


async def begun(*, stream: bool) -> tuple[QuotaFilter, Exchange, Leases]:
    leases = Leases()
    none = NoLimits()
    services = SimpleNamespace(
        leases=leases,
        counter=TokenCounter(),
        limits=none,
        prices=none,
        tenants=none,
        journal=None,
        calls=None,
        settings=Settings(),
    )
    quota = QuotaFilter(QuotaOptions(), cast(Services, services))
    body = {"model": "agent_1", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
    exchange = exchange_of("POST", CHAT, body)
    exchange.tenant, exchange.model = ACME, "Mock/gpt-4o"
    await quota.on_request(exchange)
    return quota, exchange, leases


async def test_a_client_that_wants_json_is_asked_for_as_a_stream() -> None:
    _, exchange, _ = await begun(stream=False)
    assert (await exchange.request.json())["stream"] is True


async def test_a_stream_that_breaks_off_is_an_error_and_charged_by_its_words() -> None:
    quota, exchange, leases = await begun(stream=False)
    replied(exchange, Source(chunk("one two three")))
    with pytest.raises(UpstreamError, match="broke off"):
        await quota.on_reply(exchange)
    await quota.on_finish(exchange)
    ((state, charges),) = leases.settled
    assert state is Outcome.ABORTED
    assert [(charge.output_tokens, charge.estimated) for charge in charges] == [(3, True)]


@pytest.mark.parametrize("raw", [b"data: {nonsense\n\n", b"data: 7\n\n", b": comment\n\n"])
async def test_nonsense_in_a_stream_for_json_is_an_error(raw: bytes) -> None:
    quota, exchange, _ = await begun(stream=False)
    source = Source(raw)
    replied(exchange, source)
    with pytest.raises(UpstreamError):
        await quota.on_reply(exchange)
    assert source.closed


async def test_a_reply_in_one_piece_is_counted_too() -> None:
    quota, exchange, leases = await begun(stream=True)
    usage = {"prompt_tokens": 9, "completion_tokens": 4}
    exchange.reply = Reply.of_json(200, {"id": "c", "choices": [], "usage": usage})
    assert await quota.on_reply(exchange) is None
    await quota.on_finish(exchange)
    ((state, charges),) = leases.settled
    assert (state, [charge.tokens for charge in charges]) == (Outcome.DONE, [13])


async def test_a_refused_request_is_not_charged() -> None:
    quota, exchange, leases = await begun(stream=True)
    exchange.reply = Reply.of_json(429, {"error": {"message": "slow"}})
    assert await quota.on_reply(exchange) is None
    await quota.on_finish(exchange)
    ((state, charges),) = leases.settled
    assert state is Outcome.REFUSED
    assert not charges


async def test_a_cut_stream_ends_as_this_apis_clients_understand() -> None:
    quota, exchange, leases = await begun(stream=True)
    replied(exchange, Source())
    assert await quota.on_reply(exchange) is None
    hook = quota.on_stream(exchange)
    assert hook is not None
    (event,) = SseParser().feed(chunk("word " * 90))
    with pytest.raises(EndStream) as end:
        await cast(Any, hook(event))
    first, done = end.value.last
    assert first.json["error"]["code"] == "quota_exceeded"
    assert (first.json["id"], done.data) == ("c", b"[DONE]")
    await quota.on_finish(exchange)
    ((state, charges),) = leases.settled
    assert state is Outcome.CUT
    assert sum(charge.tokens for charge in charges) == sum(charge.input_tokens for charge in charges) + 20


@pytest.mark.parametrize(
    ("method", "path", "answers"),
    [
        ("POST", CHAT, True),
        ("POST", "/api/agents/v1/Responses", True),
        ("GET", "/api/agents/v1/responses/resp_1", False),
        ("GET", "/api/agents/v1/models", False),
        ("POST", "/api/agents/chat/Mock", False),
    ],
)
async def test_only_what_makes_a_model_work_takes_a_lease(method: str, path: str, *, answers: bool) -> None:
    assert is_answer(exchange_of(method, path, {})) is answers
