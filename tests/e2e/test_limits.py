"""Limits of every kind on two running instances: what they refuse, cut and count, in tokens and in money."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import pytest

from tests.e2e.people import Answer, Person, deltas, invite, register
from tests.e2e.processes import Running, geko_environment, running
from tests.e2e.test_api_keys import make_key, send
from tests.e2e.test_metering import settled

MODEL = "MockUsage/gpt-4o-mini"
PRICES = """
version = 1
[metering]
currency = "EUR"
[[prices]]
model = "MockUsage/gpt-4o-mini"
input = 2
output = 8
cached = 0.5
reasoning = 12.5
[[prices]]
model = "MockUsage/gpt-4o-mini"
input = 900
output = 900
from = 2199-01-01
"""
SLOW = "slow [[tokens=4000 prompt=10 delay_ms=20]]"
SOON_S = 6.0  # a change is to be obeyed within a second or two; the machine may be busy


@pytest.fixture(scope="module")
def pair(
    e2e_dsn: str, stand_in: Running, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Running, Running]]:
    """Two instances with prices."""
    folder = tmp_path_factory.mktemp("limits")
    (folder / "geko.toml").write_text(PRICES)
    command = ["geko_proxy", "--config", str(folder / "geko.toml"), "serve"]
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(running(command, geko_environment(e2e_dsn, stand_in.url), folder / name))
            for name in "ab"
        )
        yield first, second


@pytest.fixture
async def sessions(pair: tuple[Running, Running]) -> AsyncIterator[list[aiohttp.ClientSession]]:
    opened = [aiohttp.ClientSession(each.url, cookie_jar=aiohttp.DummyCookieJar()) for each in pair]
    yield opened
    for session in opened:
        await session.close()


@pytest.fixture
async def ann(sessions: list[aiohttp.ClientSession]) -> Person:
    """The owner of a fresh tenant, at the first instance."""
    return await register(sessions[0], f"ann{os.getpid()}n{uuid4().hex[:8]}@example.org", "Ann")


async def add(person: Person, **limit: Any) -> dict[str, Any]:
    made = await person.call("POST", f"/v1/workspaces/{person.workspace_id}/limits", limit)
    assert made.status == 201, made
    found: dict[str, Any] = made.json
    return found


async def change(person: Person, limit: dict[str, Any], **fields: Any) -> dict[str, Any]:
    path = f"/v1/workspaces/{person.workspace_id}/limits/{limit['id']}"
    answer = await person.call("PATCH", path, fields)
    assert answer.status == 200, answer
    found: dict[str, Any] = answer.json
    return found


async def remove(person: Person, limit: dict[str, Any]) -> None:
    path = f"/v1/workspaces/{person.workspace_id}/limits/{limit['id']}"
    assert (await person.call("DELETE", path)).status == 204


async def window(person: Person, limit: dict[str, Any]) -> dict[str, Any]:
    path = f"/v1/workspaces/{person.workspace_id}/limits/{limit['id']}"
    answer = await person.call("GET", path)
    assert answer.status == 200, answer
    found: dict[str, Any] = answer.json["window"]
    return found


async def user_id(person: Person) -> str:
    return str((await person.call("GET", "/v1/auth/me")).json["user"]["id"])


def refused_by(answer: Answer, limit: dict[str, Any]) -> str:
    """The words of a refusal by this limit."""
    assert answer.status == 429, answer
    error = answer.json["error"]
    details = error["details"]
    assert details["limitId"] == limit["id"], error
    assert (details["scope"], details["period"], details["unit"]) == (
        limit["scope"],
        limit["period"],
        limit["unit"],
    )
    assert details["resetsAt"][:19] == limit["window"]["resetsAt"][:19]
    assert int(answer.headers["Retry-After"]) > 0
    return str(error["message"])


async def say(person: Person, tokens: int, prompt: int = 5, **fields: Any) -> Answer:
    return await send(person, f"say [[tokens={tokens} prompt={prompt} delay_ms=0]]", **fields)


async def test_a_limit_for_each_member_stops_that_member_alone(
    ann: Person, sessions: list[aiohttp.ClientSession]
) -> None:
    ben = replace(await invite(ann, "member", f"ben{uuid4().hex[:8]}@example.org"), client=sessions[1])
    each = await add(ann, scope="member", subject="*", period="day", amount=60)
    assert (await say(ann, 55)).status == 200
    text = refused_by(await say(ann, 5), each)
    assert text.startswith("Your daily token quota in workspace Default is used up.")
    assert (await say(ben, 20)).status == 200
    shown = (await ann.call("GET", f"/v1/workspaces/{ann.workspace_id}/limits/{each['id']}")).json
    assert [member["used"] for member in shown["members"]] == [60, 25]
    assert [member["remaining"] for member in shown["members"]] == [0, 35]
    own = await window(ben, each)
    assert (own["used"], own["remaining"]) == (25, 35)

    one = await add(ann, scope="member", subject=await user_id(ben), period="week", amount=25)
    assert one["window"]["used"] == 25  # what was used before in its time
    refused_by(await say(ben, 5), one)
    await remove(ann, one)
    assert (await say(ben, 5)).status == 200


async def test_a_limit_for_models_counts_those_that_its_glob_matches(ann: Person) -> None:
    limit = await add(ann, scope="model", subject="*/gpt-4o-m*", period="week", startDay=3, amount=30)
    assert (await say(ann, 25)).status == 200
    text = refused_by(await say(ann, 5), limit)
    assert "weekly token quota of workspace Default for the model */gpt-4o-m* is used up" in text
    starts = datetime.fromisoformat(limit["window"]["startsAt"])
    assert starts.isoweekday() == 3
    assert datetime.fromisoformat(limit["window"]["resetsAt"]) - starts == timedelta(days=7)
    assert (await say(ann, 5, model="MockUsage/gpt-4o")).status == 200
    assert (await window(ann, limit))["used"] == 30


async def test_a_key_has_a_budget_of_the_month_and_may_have_more_limits(ann: Person) -> None:
    program, made = await make_key(ann, tokenLimit=1000)
    path = f"/v1/workspaces/{ann.workspace_id}/limits/{made['id']}"
    assert (await ann.call("GET", path)).json["amount"] == 1000
    daily = await add(ann, scope="key", subject=made["id"], period="day", amount=20)
    assert (await say(program, 15)).status == 200
    refused = await say(program, 5)
    assert "daily token budget of API key ci is used up" in refused_by(refused, daily)
    assert refused.json["error"]["code"] == "key_budget_exceeded"
    assert (await say(ann, 5)).status == 200
    assert (await ann.call("DELETE", path)).status == 204
    assert (await ann.call("GET", f"/v1/api-keys/{made['id']}")).json["tokenLimit"] is None
    await add(ann, scope="key", subject=made["id"], amount=7)  # the same row as the key's own
    assert (await ann.call("GET", f"/v1/api-keys/{made['id']}")).json["tokenLimit"] == 7


async def test_a_month_may_begin_on_any_day_and_the_tightest_of_several_limits_cuts(ann: Person) -> None:
    month = await add(ann, scope="workspace", startDay=17, amount=500)
    assert datetime.fromisoformat(month["window"]["startsAt"]).day == 17
    model = await add(ann, scope="model", subject="MockUsage/*", period="day", amount=200)
    await add(ann, scope="member", subject="*", unit="cost", amount=100)
    events = await ann.chat("long [[tokens=3000 prompt=20 delay_ms=1]]")
    text = events[-1]["responseMessage"]["content"][-1]["error"]
    assert "daily token quota of workspace Default for the model MockUsage/*" in text
    assert (await window(ann, model))["used"] == 200
    assert (await window(ann, month))["used"] == 200
    refused_by(await say(ann, 5), model)
    await remove(ann, model)
    events = await ann.chat("long [[tokens=3000 prompt=20 delay_ms=1]]")
    assert (
        "monthly token quota of workspace Default is used up"
        in events[-1]["responseMessage"]["content"][-1]["error"]
    )
    assert (await window(ann, month))["used"] == 500


async def test_money_is_charged_by_the_price_table(ann: Person, e2e_dsn: str) -> None:
    """2 EUR for a million tokens of prompt, 0.5 from the cache, 8 of answer, 12.5 of reasoning."""
    budget = await add(ann, scope="workspace", unit="cost", period="day", amount="0.001", alertAt=[50])
    assert (budget["amount"], budget["currency"]) == ("0.001", "EUR")
    done = await send(ann, "pay [[tokens=20 prompt=100 cached=40 reasoning=8]]")
    assert done.status == 200, done
    database = await asyncpg.connect(e2e_dsn)
    try:
        row = await database.fetchrow(
            "select * from usage_events where workspace_id = $1", UUID(ann.workspace_id)
        )
        day = await database.fetchrow(
            "select cost from usage_days where workspace_id = $1", UUID(ann.workspace_id)
        )
    finally:
        await database.close()
    assert row is not None
    assert day is not None
    fresh = row["input_tokens"] - row["cached_tokens"]
    cost = fresh * 2_000 + row["cached_tokens"] * 500 + row["output_tokens"] * 8_000
    cost += row["reasoning_tokens"] * 12_500
    assert row["cached_tokens"] == 40
    assert row["cost"] == day["cost"] == cost > 0
    spent = await window(ann, budget)
    assert spent["used"] == f"{cost / 10**9:.9f}".rstrip("0")
    assert int(float(spent["remaining"]) * 10**9 + 0.5) == 1_000_000 - cost

    events = await ann.chat("long [[tokens=3000 prompt=20 delay_ms=1]]")  # 0.024
    assert (
        "daily budget of workspace Default is used up"
        in events[-1]["responseMessage"]["content"][-1]["error"]
    )
    spent = await window(ann, budget)
    assert 0.00098 < float(spent["used"]) <= 0.001
    refused = await say(ann, 5)
    refused_by(refused, budget)
    assert refused.json["error"]["details"]["limit"] == "0.001"
    assert refused.json["error"]["details"]["used"] == spent["used"]


async def test_a_model_without_a_price_is_refused_while_money_is_limited(ann: Person) -> None:
    budget = await add(ann, scope="member", subject="*", unit="cost", amount=5)
    refused = await say(ann, 5, model="MockUsage/gpt-4o")
    assert (refused.status, refused.json["error"]["code"]) == (403, "model_without_price")
    price = {"model": "MockUsage/gpt-4o", "input": "1.5", "output": 3}
    made = await ann.call("POST", "/v1/prices", price)
    assert made.status == 201, made
    assert (await ann.call("POST", "/v1/prices", price)).json["error"]["code"] == "price_exists"
    assert (await say(ann, 10, 100, model="MockUsage/gpt-4o")).status == 200
    assert (await window(ann, budget))["used"] == "0.00018"
    listed = (await ann.call("GET", "/v1/prices")).json
    assert listed["currency"] == "EUR"
    assert [each["id"] is None for each in listed["prices"]] == [False, True, True]
    assert (await ann.call("DELETE", f"/v1/prices/{made.json['id']}")).status == 204
    assert (await say(ann, 5, model="MockUsage/gpt-4o")).status == 403
    assert (await ann.call("DELETE", f"/v1/prices/{made.json['id']}")).status == 404
    await remove(ann, budget)
    assert (await say(ann, 5, model="MockUsage/gpt-4o")).status == 200


async def test_grace_lets_a_running_answer_end_and_admits_no_new_one(ann: Person) -> None:
    limit = await add(ann, scope="workspace", period="day", amount=100, grace=400)
    events = await ann.chat("over [[tokens=300 prompt=20 delay_ms=1]]")
    assert len(deltas(events).split()) == 300
    assert not events[-1].get("aborted")
    spent = await window(ann, limit)
    assert (spent["used"], spent["remaining"]) == (320, 0)
    refused_by(await say(ann, 5), limit)
    changed = await change(ann, limit, grace=0, amount=330)
    assert (changed["grace"], changed["window"]["remaining"]) == (0, 10)


async def test_a_raise_counts_until_it_ends(ann: Person) -> None:
    limit = await add(ann, scope="workspace", period="day", amount=20)
    assert (await say(ann, 15)).status == 200
    refused_by(await say(ann, 5), limit)
    until = datetime.now(UTC) + timedelta(seconds=2.5)
    raised = await change(ann, limit, **{"raise": {"by": 100, "until": until.isoformat()}})
    assert raised["window"]["remaining"] == 100
    assert (await say(ann, 5)).status == 200
    await asyncio.sleep((until - datetime.now(UTC)).total_seconds() + 0.1)
    refused_by(await say(ann, 5), limit)
    ended = (await ann.call("GET", f"/v1/workspaces/{ann.workspace_id}/limits")).json["limits"][-1]
    assert (ended["raise"], ended["window"]["remaining"]) == (None, 0)


@pytest.mark.parametrize("how", ["lowered", "added", "added in money", "for its model", "the workspace's"])
async def test_a_change_at_one_instance_cuts_an_answer_that_runs_at_the_other(
    ann: Person, sessions: list[aiohttp.ClientSession], how: str
) -> None:
    there = replace(ann, client=sessions[1])
    limit = await add(ann, scope="member", subject="*", period="week", amount=100_000)
    conversation = await there.start(SLOW)
    listening = asyncio.create_task(there.listen(conversation))
    await asyncio.sleep(1.5)
    assert not listening.done()
    changed_at = time.monotonic()
    if how == "lowered":
        await change(ann, limit, amount=1)
    elif how == "added":
        await add(ann, scope="workspace", period="day", amount=1)
    elif how == "added in money":
        await add(ann, scope="workspace", period="day", unit="cost", amount="0.000001")
    elif how == "for its model":
        await add(ann, scope="model", subject="Mock*/*mini", amount=0)
    else:
        await ann.set_quota(1)
    events = await asyncio.wait_for(listening, 60)
    assert time.monotonic() - changed_at < SOON_S
    assert "is used up" in events[-1]["responseMessage"]["content"][-1]["error"]
    assert len(deltas(events).split()) < 1000
    usage = await settled(ann)
    assert usage["used"] > 0
    for each in (await ann.call("GET", f"/v1/workspaces/{ann.workspace_id}/limits")).json["limits"]:
        assert float(each["window"]["used"]) > 0
        assert float(each["window"]["leased"]) == 0


@pytest.mark.parametrize("how", ["raised", "deleted", "lifted for a time"])
async def test_more_room_at_one_instance_lets_an_answer_at_the_other_go_on(
    ann: Person, sessions: list[aiohttp.ClientSession], how: str
) -> None:
    there = replace(ann, client=sessions[1])
    limit = await add(ann, scope="workspace", period="day", amount=400)
    conversation = await there.start("go [[tokens=900 prompt=10 delay_ms=5]]")
    listening = asyncio.create_task(there.listen(conversation))
    await asyncio.sleep(0.3)
    if how == "raised":
        await change(ann, limit, amount=2000)
    elif how == "deleted":
        await remove(ann, limit)
    else:
        until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        await change(ann, limit, **{"raise": {"by": 1600, "until": until}})
    events = await listening
    assert len(deltas(events).split()) == 900
    assert (await settled(ann))["used"] == 910


async def test_another_time_zone_moves_the_windows(ann: Person) -> None:
    limit = await add(ann, scope="workspace", period="day", amount=1000)
    assert (await say(ann, 25)).status == 200
    moved = await ann.call("PATCH", "/v1/tenant", {"timeZone": "Pacific/Kiritimati"})  # 14 hours ahead
    assert (moved.status, moved.json["timeZone"]) == (200, "Pacific/Kiritimati")
    there = await window(ann, limit)
    assert there["timeZone"] == "Pacific/Kiritimati"
    starts = datetime.fromisoformat(there["startsAt"])
    assert (starts.hour, starts.minute) == (10, 0)  # UTC
    assert there["used"] == 30
    assert (await say(ann, 5)).status == 200
    assert (await window(ann, limit))["used"] == 40


async def test_the_usage_of_a_new_limit_is_that_of_its_scope(ann: Person) -> None:
    program, made = await make_key(ann)
    assert (await say(program, 15)).status == 200
    assert (await say(ann, 35, model="MockUsage/gpt-4o")).status == 200
    used = {}
    for scope, subject in (
        ("workspace", ""),
        ("member", "*"),
        ("model", "MockUsage/gpt-4o"),
        ("model", "*/gpt-4o-*"),
        ("model", "*/x"),
        ("key", made["id"]),
    ):
        limit = await add(ann, scope=scope, subject=subject, period="week", amount=None)
        used[scope, subject] = limit["window"]["used"]
        assert limit["window"]["remaining"] is None
    assert list(used.values()) == [60, 60, 40, 20, 0, 20]
