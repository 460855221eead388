"""A provider that is down, and a workspace that may not use a model: what happens on the LLM side."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import jwt

from prove.llm_day import UNLIMITED, Worker, agent, billed, chat, ended, hire
from prove.llm_stage import open_llm_stage
from prove.load import count, listen, send
from prove.report import Row
from prove.stage import Stage, client_of
from tests.e2e.people import Person
from tests.e2e.processes import JWT_SECRET

SPARE = "Spare/gpt-4o-mini"
FORBIDDEN = "gpt-4o"


async def one_provider_down(stage: Stage) -> Row:
    """Answers go on with the workspace's fallback, and the ledger says who has answered."""
    row = Row("one provider is down", max(10, stage.turns // 2))
    async with open_llm_stage(stage) as llm:
        worker = await hire(llm, UNLIMITED)
        await worker.person.set_config(fallback=[SPARE])
        await llm.order({FORBIDDEN: "status=503"})
        begun = time.monotonic()
        turns = [chat(worker, number % 2, "tokens=20 delay_ms=2") for number in range(row.turns)]
        outcomes = [outcome for outcome, _ in await asyncio.gather(*turns)]
        row.time_s = time.monotonic() - begun
        row.expect(await llm.settled(worker.user), "turns or leases are left over")
        row.expect(set(outcomes) == {"done"}, f"not all were answered: {count(outcomes)}")
        calls, ledger = (await llm.served()).get(worker.account, []), await llm.ledger(worker.user)
        row.provider, row.charged = billed(calls), sum(each["tokens"] for each in ledger)
        row.expect(row.provider == row.charged, "the provider's books and the ledger differ")
        by = Counter(f"{each['endpoint']}/{each['model']} ({each['kind']})" for each in ledger)
        row.notes.append(f"answered by, in the ledger: {count(by.elements())}")
        answers = [name for name in by if name.endswith("(chat)")]
        row.expect(answers == [f"{SPARE} (chat)"], f"the ledger names {answers}")
        refused = [call for call in calls if call["status"] == 503]
        row.notes.append(f"the provider that is down was asked {len(refused)} times for {row.turns} answers")
        row.expect(len(refused) < row.turns, "the provider that is down was asked for each answer")
    return row


async def forbidden_model(stage: Stage) -> Row:
    """Whatever LibreChat is led to do, no call for the model reaches the provider."""
    row = Row("a workspace without gpt-4o", 0)
    async with open_llm_stage(stage) as llm:
        worker = await hire(llm, UNLIMITED)  # its agents use gpt-4o
        before = billed_of(await llm.served(), worker)
        await worker.person.set_config(models=["Mock/gpt-4o-mini", "MockUsage/gpt-4o-mini"])
        mixed = await agent(worker.person, model="gpt-4o-mini", tools=["search_mcp_files"])
        begun = time.monotonic()
        tries = attempts(worker, mixed)
        row.turns = 2 * len(tries)
        async with client_of(llm.librechat) as beside:  # LibreChat itself, as if nobody stood before it
            itself = replace(worker.person, client=beside, token=bearer(worker.account))
            for name, fields in tries.items():
                front = await attempt(worker.person, fields)
                behind = await attempt(itself, fields)
                row.notes.append(f"{name}: {front}; past GEKO's front: {behind}")
        allowed, _ = await chat(worker, 0, "tokens=10", model="gpt-4o-mini")
        row.expect(allowed == "done", f"the model that is allowed does not answer: {allowed}")
        row.time_s = time.monotonic() - begun
        row.expect(await llm.settled(worker.user), "turns or leases are left over")
        calls = [call for call in (await llm.served()).get(worker.account, []) if call["model"] == FORBIDDEN]
        row.expect(not before, "it had called the model before")
        row.expect(not calls, f"{len(calls)} calls of {FORBIDDEN} reached the provider")
        listed = (await worker.person.call("GET", "/api/models")).json
        shown = [each for name in ("Mock", "MockUsage", "Spare") for each in listed.get(name, ())]
        row.expect(FORBIDDEN not in shown, f"LibreChat's page lists {shown}")
    return row


def attempts(worker: Worker, mixed: str) -> dict[str, dict[str, Any]]:
    """Ways to a model: the fields of a chat message for each."""
    agents: dict[str, Any] = {"endpoint": "agents", "endpointType": ...}
    added = {"endpoint": "Mock", "endpointType": "custom", "model": FORBIDDEN}
    mini: dict[str, Any] = {"endpoint": "Mock", "model": "gpt-4o-mini"}
    return {
        "the model itself": {"endpoint": "Mock", "model": FORBIDDEN},
        "with usage": {"endpoint": "MockUsage", "model": FORBIDDEN},
        "an agent": {**agents, "agent_id": worker.tool_agent},
        "an agent and its sub-agent": {**agents, "agent_id": worker.parent_agent},
        "an agent with another model named": {**agents, "agent_id": mixed, "model": FORBIDDEN},
        "an added conversation": {**mini, "addedConvo": added},
        "a spec": {**mini, "spec": FORBIDDEN},
        "a title, memory and summary": {**mini, "order": "summary=9 tokens=9"},
    }


async def attempt(person: Person, fields: dict[str, Any]) -> str:
    """Try a message; how it ended."""
    fields = {"order": "tokens=9", "model": "gpt-4o-mini", **fields}
    sent = await send(person, fields.pop("order"), **fields)
    if sent.conversation is None:
        return str(sent.status)
    return ended(await listen(person, sent.conversation))


def billed_of(served: dict[str, list[dict[str, Any]]], worker: Worker) -> int:
    """What the provider has billed a worker so far."""
    return billed(served.get(worker.account, []))


def bearer(account: str) -> str:
    """A token as LibreChat takes it from anybody who knows its secret (contract §0.5)."""
    return jwt.encode({"id": account, "exp": time.time() + 900}, JWT_SECRET, algorithm="HS256")
