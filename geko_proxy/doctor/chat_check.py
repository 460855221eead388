"""One message as the owner of a workspace, sent to LibreChat itself; then the look at what the LLM side saw of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from geko_proxy.accounts.shadow import LoginCredentials, ShadowAccounts
from geko_proxy.accounts.shadow_store import ShadowStore
from geko_proxy.client_api.chat_message import ROOT, SendBody, librechat_message
from geko_proxy.doctor.findings import MAKE_YAML, Finding, Level, yaml
from geko_proxy.doctor.patient import Patient
from geko_proxy.errors import GekoError, UpstreamError
from geko_proxy.librechat_setup.yaml_file import NO_MODEL
from geko_proxy.sse import SseParser
from geko_proxy.storage.database import Database

TEXT: Final = "Say hello."
ANSWER_S: Final = 120.0
SETTLED_S: Final = 10.0  # LibreChat's title may still be on its way
OWNER: Final = """
select user_id from workspace_members
where tenant_id = $1 and workspace_id = $2 and role = 'owner' order by user_id limit 1"""
CALLS: Final = """
select call_kind, workspace_id, user_id, message_id from turns
where tenant_id = $1 and of_conversation = $2 and call_kind is not null"""


@dataclass(frozen=True, slots=True)
class SeenCall:
    """A call of a model, as the LLM side has written it down."""

    kind: str
    workspace_id: UUID
    user_id: UUID
    message_id: str | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What LibreChat says of the answer to the message."""

    conversation_id: str
    message_id: str
    problem: str


async def calls_of(database: Database, tenant_id: UUID, conversation_id: str) -> list[SeenCall]:
    """The calls of models that the LLM side has seen for a conversation."""
    async with database.tenant(tenant_id) as scope:
        rows = await scope.fetch(CALLS, conversation_id)
    return [
        SeenCall(row["call_kind"], row["workspace_id"], row["user_id"], row["message_id"]) for row in rows
    ]


async def check_chat(patient: Patient, workspace_id: UUID, model: str) -> AsyncIterator[Finding]:
    """Chat once and compare. model: "Provider/model"; empty: the first that the account sees.

    The workspace pays. The conversation is deleted afterwards; the account stays, as after the owner's first visit.
    """
    database = await Database.open(patient.settings.database.url, max_size=3)
    try:
        tenant_id = await database.call("select tenant_id from find_workspace_tenant($1)", workspace_id)
        if tenant_id is None:
            change = "give --chat the id of a workspace that is not archived"
            yield Finding("chat_workspace", f"there is no workspace {workspace_id}", "it pays", change)
            return
        async with database.tenant(tenant_id["tenant_id"]) as scope:
            owner = await scope.fetch_value(OWNER, workspace_id)
        person = (tenant_id["tenant_id"], workspace_id, owner)
        async for finding in _chat(patient, database, person, model):
            yield finding
    finally:
        await database.close()


async def _chat(
    patient: Patient, database: Database, person: tuple[UUID, UUID, UUID], model: str
) -> AsyncIterator[Finding]:
    minted = patient.settings.librechat.identity == "mint"
    credentials = patient.minted() if minted else LoginCredentials(patient.client, patient.passwords)
    shadows = ShadowAccounts(ShadowStore(database), patient.client, patient.passwords, credentials)
    bearer = await shadows.bearer(await shadows.get(*person))
    chosen = model or await _first_model(patient, bearer)
    if not chosen:
        change = "allow the workspace a model, or name one with --model"
        yield Finding(
            "chat_model", "the workspace's owner sees no model in LibreChat", "nobody can chat", change
        )
        return
    answer = await _ask(patient, bearer, chosen)
    try:
        seen = await _settled(database, person[0], answer)
        for finding in judged(answer, seen, person):
            yield finding
    finally:
        body = {"arg": {"conversationId": answer.conversation_id, "source": "button"}}
        with contextlib.suppress(GekoError):
            await patient.client.call("DELETE", "/api/convos", bearer=bearer, body=body)


def judged(answer: Answer, seen: Sequence[SeenCall], person: tuple[UUID, UUID, UUID]) -> list[Finding]:
    """What is wrong with what was seen of an answer. person: tenant, workspace and user."""
    findings = []
    if answer.problem:
        change = f"look at GEKO's log and LibreChat's; {MAKE_YAML}"
        findings.append(Finding("chat_failed", f"no answer: {answer.problem}", "nobody can chat", change))
    chats = [call for call in seen if call.kind == "chat"]
    if not chats and not answer.problem:
        change = f"{MAKE_YAML}: baseURL and headers of the endpoint"
        why = "what it uses is only estimated, and no limit holds inside LibreChat"
        findings.append(Finding("chat_not_seen", "the call did not come through GEKO", why, change))
    if any((call.workspace_id, call.user_id) != person[1:] for call in seen):
        change = yaml("    headers:", "      x-geko-user: '{{LIBRECHAT_USER_ID}}'")
        findings.append(
            Finding("chat_user", "the call came under another name", "another one would pay", change)
        )
    if not answer.problem and any(call.message_id != answer.message_id for call in chats):
        change = yaml("    headers:", "      x-geko-message: '{{LIBRECHAT_BODY_MESSAGEID}}'")
        why = "calls of one conversation can't be told apart"
        findings.append(Finding("chat_message", "the call does not say for which answer it is", why, change))
    if chats and len(chats) > 1:
        why = "titles and memory count as chat in reports"
        problem = "hidden calls do not say what they are"
        findings.append(Finding("chat_kind", problem, why, MAKE_YAML, Level.WARNING))
    return findings


async def _first_model(patient: Patient, bearer: str) -> str:
    listed = await patient.client.models(bearer)
    for provider in patient.settings.llm_providers:
        for name in listed.get(provider.name, ()):
            if name != NO_MODEL:
                return f"{provider.name}/{name}"
    return ""


async def _ask(patient: Patient, bearer: str, model: str) -> Answer:
    endpoint, _, name = model.partition("/")
    body = librechat_message(SendBody(message=TEXT), endpoint, name, ROOT, datetime.now(UTC))
    started = await patient.client.call("POST", "/api/agents/chat", bearer=bearer, body=body)
    value = started.value if isinstance(started.value, dict) else {}
    conversation_id = value.get("conversationId") or value.get("streamId")
    if started.status != 200 or not isinstance(conversation_id, str):
        raise UpstreamError(
            f"LibreChat did not take a message ({started.status}: {str(started.value)[:200]})"
        )
    try:
        async with asyncio.timeout(ANSWER_S):
            final = await _final(patient, bearer, conversation_id)
    except TimeoutError:
        return Answer(conversation_id, "", f"none came within {ANSWER_S:.0f} s")
    message = final.get("responseMessage")
    message = message if isinstance(message, dict) else {}
    return Answer(conversation_id, str(message.get("messageId")), _problem(final, message))


async def _final(patient: Patient, bearer: str, conversation_id: str) -> dict[str, Any]:
    reply = await patient.client.open_stream(bearer, conversation_id, resume=False)
    parser = SseParser()
    try:
        while chunk := await reply.read_chunk():
            for event in parser.feed(chunk):
                value = event.json if event.data.startswith(b"{") else {}
                if isinstance(value, dict) and (value.get("final") or event.name == "error"):
                    return value
    finally:
        reply.close()
    return {"error": "the stream ended without its last event"}


def _problem(final: dict[str, Any], message: dict[str, Any]) -> str:
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    errors = [
        str(part.get("error")) for part in parts if isinstance(part, dict) and part.get("type") == "error"
    ]
    if final.get("final") and not errors and not message.get("error"):
        return ""
    return (errors[0] if errors else str(final.get("error") or message.get("text") or "an error"))[:300]


async def _settled(database: Database, tenant_id: UUID, answer: Answer) -> list[SeenCall]:
    """What was seen, as soon as it is something besides the chat; at the latest after some seconds."""
    deadline = asyncio.get_running_loop().time() + SETTLED_S
    while True:
        seen = await calls_of(database, tenant_id, answer.conversation_id)
        if answer.problem or len(seen) > 1 or asyncio.get_running_loop().time() > deadline:
            return seen
        await asyncio.sleep(0.2)
