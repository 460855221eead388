"""A day of a LibreChat whose calls all pass through GEKO: what the provider would bill is what the ledger holds."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from prove.llm_stage import LlmStage, open_llm_stage
from prove.load import Heard, count, listen, send
from prove.report import Row
from prove.stage import Stage, User
from tests.e2e.people import Person

TURNS_PER_TURN = 5  # a day has so many times the turns that the other scenarios have at once
AT_ONCE = 60
UNLIMITED = 100_000_000
TIGHT = 25_000  # tokens; the third workspace's turns want more
ON_THE_WAY = 3  # words that a provider writes until it learns that a call was stopped
AT_ONCE_AT_MOST = 64  # words that it writes in one go: an answer may be over before it is stopped

# What people do, and how often of 100 turns.
MIX: tuple[tuple[str, int], ...] = (
    ("plain", 36),
    ("long", 8),
    ("agent with tools", 11),
    ("agent with a sub-agent", 6),
    ("summary", 4),
    ("goes on", 8),
    ("stopped", 8),
    ("left", 5),
    ("refused by the provider", 3),
    ("fails, then works", 5),
    ("dies", 4),
    ("never reports", 2),
)


@dataclass
class Worker:
    """Somebody who works in a workspace, with two agents."""

    user: User
    account: str
    tool_agent: str
    parent_agent: str

    @property
    def person(self) -> Person:
        """Through the first instance."""
        return self.user.at[0]


async def day(stage: Stage) -> Row:
    """Three workspaces share a provider; one of them runs out of its quota."""
    row = Row("a day of calls, titles, memory, agents, failures", stage.turns * TURNS_PER_TURN)
    async with open_llm_stage(stage) as llm:
        workers = [await hire(llm, limit) for limit in (UNLIMITED, UNLIMITED, TIGHT)]
        begun = time.monotonic()
        free = asyncio.Semaphore(AT_ONCE)
        plans = [kind for kind, share in MIX for _ in range(share)]

        async def one(number: int) -> tuple[str, str]:
            kind = stage.random.choice(plans)
            worker, at = workers[number % 3], stage.random.randint(0, 1)
            async with free:
                return kind, await ACTS[kind](stage, worker, at)

        ended = await asyncio.gather(*(one(number) for number in range(row.turns)))
        row.time_s = time.monotonic() - begun
        for worker in workers:
            row.expect(
                await llm.settled(worker.user),
                f"turns or leases are left over: {llm.instances[0].log_text()[-500:]}",
            )
        kinds = {kind: count(outcome for each, outcome in ended if each == kind) for kind, _ in MIX}
        row.notes += [f"{kind}: {found}" for kind, found in kinds.items()]
        await compare(llm, row, workers)
    return row


async def compare(llm: LlmStage, row: Row, workers: Sequence[Worker]) -> None:
    """Both books, by workspace and by how calls ended."""
    served = await llm.served()
    row.provider = row.charged = 0
    for number, worker in enumerate(workers, 1):
        calls, ledger = served.get(worker.account, []), await llm.ledger(worker.user)
        made, paid = billed(calls), sum(each["tokens"] for each in ledger)
        row.provider += made
        row.charged += paid
        whole = Counter((call["model"], call["usage"]["totalTokens"]) for call in calls if call["usageSent"])
        reported = Counter((each["model"], each["tokens"]) for each in ledger if not each["estimated"])
        row.expect(not reported - whole, f"workspace {number}: charged, but not reported: {reported - whole}")
        unread = (
            whole - reported
        ).total()  # reported to nobody: the caller had left, or a limit had ended it
        exact = sum(tokens * many for (_, tokens), many in reported.items())
        rest, estimated = made - exact, paid - exact
        outcomes = Counter(call["outcome"] for call in calls)
        row.notes.append(
            f"workspace {number}: provider {made}, ledger {paid} ({paid - made:+d}); {exact} as reported, call by call;"
            f" of {outcomes['left'] + unread} stopped ones and others without a report {rest} made and"
            f" {estimated} charged; calls {count(outcomes.elements())}"
        )
        kinds = Counter({each["kind"]: 0 for each in ledger})
        for each in ledger:
            kinds[each["kind"]] += each["tokens"]
        row.notes.append(f"workspace {number}, ledger by kind: {dict(kinds)}")
        most = ON_THE_WAY * outcomes["left"] + AT_ONCE_AT_MOST * unread
        # whose caller left before the first byte pays for the prompt; the provider may not have got that far
        early = sum(each["tokens"] for each in ledger if each["estimated"] and not each["output_tokens"])
        row.expect(
            -early <= rest - estimated <= most,
            f"workspace {number}: {rest} tokens were made without a report, {estimated} are charged",
        )
        twice = await llm.charged_twice(worker.user)
        row.expect(not twice, f"workspace {number}: {twice} messages are charged beside their calls")


def billed(calls: Sequence[dict[str, Any]]) -> int:
    """What the provider would bill for calls."""
    return sum(call["usage"]["totalTokens"] for call in calls)


async def hire(llm: LlmStage, token_limit: int) -> Worker:
    """A person in a workspace of their own."""
    user = await llm.user(token_limit)
    person = user.at[0]
    child = await agent(person, model="gpt-4o-mini")
    subagents = {"enabled": True, "allowSelf": False, "agent_ids": [child]}
    answer = await person.call("GET", "/api/user")
    return Worker(
        user,
        answer.json["id"],
        await agent(person, model="gpt-4o", tools=["search_mcp_files"]),
        await agent(person, model="gpt-4o", tools=["search_mcp_files"], subagents=subagents),
    )


async def agent(person: Person, **fields: Any) -> str:
    """A new agent's id."""
    body = {"name": "Helper", "provider": "MockUsage", "tools": [], **fields}
    answer = await person.call("POST", "/api/agents", body)
    assert answer.status == 201, answer
    return str(answer.json["id"])


async def chat(worker: Worker, at: int, order: str, **fields: Any) -> tuple[str, str | None]:
    """Send and listen to the end; how it ended, and the conversation."""
    person = worker.user.at[at]
    fields = {"endpoint": "Mock", "model": "gpt-4o", **fields}
    attempt = await send(person, order, **fields)
    if attempt.conversation is None:
        return str(attempt.status), None
    return ended(await listen(person, attempt.conversation)), attempt.conversation


def ended(heard: Heard) -> str:
    """How an answer ended; what a limit has cut says so in its last part."""
    message = heard.last.get("responseMessage") or {}
    parts = [part for part in message.get("content") or () if isinstance(part, dict)]
    errors = [str(part.get("error")) for part in parts if part.get("type") == "error"]
    if any("used up" in error for error in errors):
        return "cut"
    return "with an error" if errors else heard.outcome


async def plain(stage: Stage, worker: Worker, at: int) -> str:
    tokens, delay = stage.random.randint(5, 90), stage.random.choice((0, 0, 2, 10))
    return (await chat(worker, at, f"tokens={tokens} delay_ms={delay} only=gpt-4o"))[0]


async def long(stage: Stage, worker: Worker, at: int) -> str:
    tokens = stage.random.randint(200, 500)
    return (await chat(worker, at, f"tokens={tokens} delay_ms=10 first_ms=200 only=gpt-4o cached=3"))[0]


async def with_tools(stage: Stage, worker: Worker, at: int) -> str:
    order = f"calls={stage.random.randint(2, 4)} tokens={stage.random.randint(5, 40)} only=gpt-4o"
    return (await chat(worker, at, order, endpoint="agents", endpointType=..., agent_id=worker.tool_agent))[0]


async def with_subagent(stage: Stage, worker: Worker, at: int) -> str:
    order = f"calls=2 subagent={stage.random.randint(5, 30)} tokens=12 only=gpt-4o"
    return (await chat(worker, at, order, endpoint="agents", endpointType=..., agent_id=worker.parent_agent))[
        0
    ]


async def summary(stage: Stage, worker: Worker, at: int) -> str:
    return (await chat(worker, at, f"summary={stage.random.randint(8, 30)} tokens=20 only=gpt-4o"))[0]


async def goes_on(stage: Stage, worker: Worker, at: int) -> str:
    first, conversation = await chat(worker, at, "tokens=15 only=gpt-4o")
    if conversation is None or first != "done":
        return first
    return (await chat(worker, 1 - at, "tokens=25 only=gpt-4o", conversationId=conversation))[0]


async def stopped(stage: Stage, worker: Worker, at: int) -> str:
    person = worker.user.at[at]
    attempt = await send(person, "tokens=400 delay_ms=10 only=gpt-4o", endpoint="Mock", model="gpt-4o")
    if attempt.conversation is None:
        return str(attempt.status)
    listening = asyncio.create_task(listen(person, attempt.conversation))
    await asyncio.sleep(stage.random.uniform(0.0, 1.5))
    await person.call("POST", "/api/agents/chat/abort", {"streamId": attempt.conversation})
    return ended(await listening)


async def left(stage: Stage, worker: Worker, at: int) -> str:
    person = worker.user.at[at]
    attempt = await send(person, "tokens=60 delay_ms=5 only=gpt-4o", endpoint="MockUsage", model="gpt-4o")
    if attempt.conversation is None:
        return str(attempt.status)
    return (await listen(person, attempt.conversation, leave_after=stage.random.randint(1, 30))).outcome


async def refused(stage: Stage, worker: Worker, at: int) -> str:
    status = stage.random.choice((400, 404, 422))
    return (await chat(worker, at, f"status={status} only=gpt-4o"))[0]


async def fails_first(stage: Stage, worker: Worker, at: int) -> str:
    status, times = stage.random.choice((429, 500, 502, 503)), stage.random.randint(1, 2)
    return (await chat(worker, at, f"status={status} times={times} tokens=20 only=gpt-4o"))[0]


async def dies(stage: Stage, worker: Worker, at: int) -> str:
    how = stage.random.choice(("die_after", "error_after"))
    return (await chat(worker, at, f"{how}={stage.random.randint(2, 15)} tokens=30 delay_ms=5 only=gpt-4o"))[
        0
    ]


async def never_reports(stage: Stage, worker: Worker, at: int) -> str:
    return (await chat(worker, at, f"usage=never tokens={stage.random.randint(5, 50)} only=gpt-4o"))[0]


ACTS: dict[str, Callable[[Stage, Worker, int], Awaitable[str]]] = {
    "plain": plain,
    "long": long,
    "agent with tools": with_tools,
    "agent with a sub-agent": with_subagent,
    "summary": summary,
    "goes on": goes_on,
    "stopped": stopped,
    "left": left,
    "refused by the provider": refused,
    "fails, then works": fails_first,
    "dies": dies,
    "never reports": never_reports,
}
