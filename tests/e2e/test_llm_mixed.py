"""Messages of which only a part of the calls comes through the LLM side: the rest is not for nothing."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from tests.e2e.gateway import LlmSide, account_of, llm_side, toml
from tests.e2e.people import Person, deltas, register
from tests.e2e.processes import Running, running
from tests.e2e.test_llm import settled
from tests.e2e.test_llm_leavers import state

numbers = itertools.count(1)


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The provider behind the LLM side; the stand-in's answers come from its own, beside it."""
    log = tmp_path_factory.mktemp("provider") / "log"
    with running(["geko_proxy.demo.provider", "--port", "0", "--key", "provider-key"], {}, log) as server:
        yield server


@pytest.fixture(scope="module")
def side(
    e2e_dsn: str, stand_in: Running, provider: Running, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LlmSide]:
    """GEKO in front of both."""
    settings = toml({"Mock": provider.url})
    with llm_side(e2e_dsn, stand_in.url, settings, tmp_path_factory.mktemp("mixed")) as found:
        yield found


@pytest.fixture
async def alice(side: LlmSide) -> AsyncIterator[Person]:
    """Somebody who chats."""
    async with aiohttp.ClientSession(side.geko.url, cookie_jar=aiohttp.DummyCookieJar()) as client:
        yield await register(client, f"mixed{os.getpid()}n{next(numbers)}@example.org", "Alice")


@pytest.mark.parametrize("kind", [None, "summary"])
async def test_a_small_call_does_not_pay_for_a_large_answer(
    side: LlmSide, alice: Person, e2e_dsn: str, kind: str | None
) -> None:
    stream_id = await alice.start("[[tokens=1500 delay_ms=1]] go")
    listening = asyncio.create_task(alice.listen(stream_id))
    account = await account_of(alice)
    reply = await side.call(account, "gpt-4o", "[[tokens=5]]", conversation=stream_id, kind=kind, stream=True)
    assert reply.status == 200
    words = len(deltas(await listening).split())
    assert words >= 1400
    found = await settled(e2e_dsn, alice, 2)
    total = sum(entry["tokens"] for entry in found)
    assert words <= total <= words * 1.1 + 100, found
    assert sorted(entry["estimated"] for entry in found) == [False, True]
    assert (await state(e2e_dsn, alice))["used"] == total


async def test_calls_that_tell_as_much_as_the_stream_are_all(
    side: LlmSide, alice: Person, e2e_dsn: str
) -> None:
    stream_id = await alice.start("[[tokens=200 delay_ms=5]] go")
    listening = asyncio.create_task(alice.listen(stream_id))
    account = await account_of(alice)
    order = "[[tokens=200 delay_ms=1]]"
    reply = await side.call(account, "gpt-4o", order, conversation=stream_id, stream=True)
    assert reply.status == 200
    await listening
    await asyncio.sleep(0.5)
    assert len(await settled(e2e_dsn, alice, 1)) == 1
