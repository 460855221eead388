"""The events and messages of a run as LibreChat words them; pure functions on recorded shapes (contract §4.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from geko_proxy.demo.librechat.chat.provider import Usage, tokens_in
from geko_proxy.demo.librechat.express import Json, nanoid

ROOT = "00000000-0000-0000-0000-000000000000"
_IMAGE_TOKENS = 255


@dataclass(frozen=True, slots=True)
class Speaker:
    """Who answers: an endpoint's model or an agent, as it is named on the wire."""

    endpoint: str
    model: str
    sender: str
    agent_id: str
    shown_model: str
    instructions: str = ""
    group_id: int | None = None

    @property
    def window(self) -> int:
        """The model's `maxContextTokens`, in tokens."""
        return 190_000 if "claude" in self.model else 121_125

    @property
    def instruction_tokens(self) -> int:
        """Estimate for the system prompt."""
        return estimate(self.instructions) if self.instructions else 0

    @property
    def tags(self) -> Json:
        """What content parts and steps of a parallel answer carry."""
        return {} if self.group_id is None else {"agentId": self.agent_id, "groupId": self.group_id}


def estimate(text: str) -> int:
    """LibreChat's own guess for one message (a tokenizer there, a word count here)."""
    return tokens_in(text) + 3


def question_tokens(text: str, files: Sequence[Json]) -> int:
    """The guess for a user message with its pictures."""
    return estimate(text) + _IMAGE_TOKENS * sum(str(f.get("type", "")).startswith("image/") for f in files)


def sender_of(model: str, endpoint: str) -> str:
    """The name above an answer."""
    return "GPT-4o" if model.startswith("gpt-4o") else endpoint


def context_usage(run_id: str, speaker: Speaker, message_tokens: int, message_count: int) -> Json:
    """Data of `on_context_usage`: the estimate before a call."""
    budget = int(speaker.window * 0.95 + 0.5)
    instructions = speaker.instruction_tokens
    return {
        "runId": run_id,
        "agentId": speaker.agent_id,
        "breakdown": {
            "maxContextTokens": speaker.window,
            "instructionTokens": instructions,
            "systemMessageTokens": instructions,
            "dynamicInstructionTokens": 0,
            "toolSchemaTokens": 0,
            "summaryTokens": 0,
            "toolCount": 0,
            "messageCount": message_count,
            "messageTokens": message_tokens,
            "availableForMessages": budget - instructions,
            "toolTokenCounts": {},
        },
        "contextBudget": budget,
        "effectiveInstructionTokens": instructions,
        "prePruneContextTokens": message_tokens,
        "remainingContextTokens": budget - instructions - message_tokens,
        "calibrationRatio": 1,
    }


def recalled(context: Json, message_tokens: int, message_count: int) -> Json:
    """The `on_context_usage` of a further call: other messages, all else as before."""
    moved = message_tokens - context["breakdown"]["messageTokens"]
    breakdown = {**context["breakdown"], "messageTokens": message_tokens, "messageCount": message_count}
    return {
        **context,
        "breakdown": breakdown,
        "prePruneContextTokens": message_tokens,
        "remainingContextTokens": context["remainingContextTokens"] - moved,
    }


def settled_context(context: Json, usage: Usage) -> Json:
    """The context snapshot with the provider's numbers in it, for a final's metadata."""
    breakdown = {k: v for k, v in context["breakdown"].items() if k != "toolTokenCounts"}
    breakdown["messageTokens"] = usage.prompt - breakdown["instructionTokens"]
    return {
        **context,
        "breakdown": breakdown,
        "remainingContextTokens": context["contextBudget"] - usage.prompt,
        "completedOutputTokens": usage.completion,
    }


def metadata(context: Json, last: Usage, usages: Sequence[Usage]) -> Json:
    """`responseMessage.metadata`: display units, so input excludes what came from a cache (contract §4.6).

    last: the answer's own last call, which the context is settled by; usages: all calls.
    """
    shown = {
        "input": sum(u.prompt - u.cached - u.written for u in usages),
        "output": sum(u.completion + u.hidden for u in usages),
        "cacheWrite": sum(u.written for u in usages),
        "cacheRead": sum(u.cached for u in usages),
    }
    return {"contextUsage": settled_context(context, last), "usage": shown}


def stored_metadata(shown: Json) -> Json:
    """The same as MongoDB gives it back: absent breakdown fields come as null."""
    context = shown["contextUsage"]
    breakdown = {**context["breakdown"], "toolTokenCounts": None, "deferredToolNames": None}
    return {**shown, "contextUsage": {**context, "breakdown": breakdown}}


def run_step(run_id: str, speaker: Speaker, index: int, message_id: str) -> Json:
    """Data of `on_run_step` for one part of the answer."""
    return {
        "stepIndex": 0,
        "id": nanoid("step_"),
        "type": "message_creation",
        "index": index,
        "stepDetails": {"type": "message_creation", "message_creation": {"message_id": message_id}},
        "usage": None,
        "runId": run_id,
        **speaker.tags,
    }


def delta(step_id: str, kind: str, text: str) -> Json:
    """An `on_message_delta` or `on_reasoning_delta` event."""
    name = "on_reasoning_delta" if kind == "think" else "on_message_delta"
    return {"event": name, "data": {"id": step_id, "delta": {"content": [{"type": kind, kind: text}]}}}


def tool_step(run_id: str, speaker: Speaker, index: int, call_id: str, name: str) -> Json:
    """Data of `on_run_step` for a tool call, whose arguments follow."""
    details = {"type": "tool_calls", "tool_calls": [{"id": call_id, "name": name, "args": ""}]}
    step = run_step(run_id, speaker, index, "")
    return {**step, "type": "tool_calls", "stepDetails": details}


def tool_delta(step_id: str, arguments: str) -> Json:
    """An `on_run_step_delta` event: a piece of a tool call's arguments."""
    found = {"type": "tool_calls", "tool_calls": [{"index": 0, "args": arguments}]}
    return {"event": "on_run_step_delta", "data": {"id": step_id, "delta": found}}


def tool_done(step: Json, call: Json) -> Json:
    """An `on_run_step_completed` event: a tool has given its output."""
    result = {"id": step["id"], "index": step["index"], "type": "tool_call", "tool_call": call}
    return {"event": "on_run_step_completed", "data": {"result": result}}


def token_usage(run_id: str, seq: int, model: str, usage: Usage, *, vendor: str, kind: str | None) -> Json:
    """Data of `on_token_usage`; bedrock tells cached tokens apart from its input (contract §4.6)."""
    cache = {"cache_read": usage.cached} | ({"cache_creation": usage.written} if usage.written else {})
    apart = usage.cached + usage.written if vendor == "bedrock" else 0
    return {
        "input_tokens": usage.prompt - apart,
        "output_tokens": usage.completion,
        "total_tokens": usage.total,
        "input_token_details": cache,
        "model": model,
        "provider": vendor,
        **({"usage_type": kind} if kind else {}),
        "runId": run_id,
        "seq": seq,
    }


def stored_message(shown: Json, created_at: str, updated_at: str, *, temporary: bool) -> Json:
    """A message as GET /api/messages gives it, from the fields that differ."""
    return {
        "updatedAt": updated_at,
        "expiredAt": None,
        "isTemporary": temporary,
        "unfinished": False,
        "createdAt": created_at,
        "error": False,
        **shown,
    }


def file_shown(file: Json) -> Json:
    """An attachment as the `created` message carries it."""
    shown = {key: file.get(key) for key in ("type", "file_id", "filepath", "filename")} | {"embedded": False}
    return shown | {key: file[key] for key in ("height", "width") if key in file}


def continued(content: Sequence[Json], edited: object) -> list[Json]:
    """What a continued answer starts with: its content, cut after the part that the user edited."""
    kept = [dict(part) for part in content]
    if not isinstance(edited, dict):
        return kept
    kind = edited["type"]
    return [*kept[: edited.get("index", 0)], {"type": kind, kind: edited.get(kind, "")}]


def final(conversation: Json, question: Json | None, answer: Json, more: Json) -> Json:
    """The last event of an answer that ran to its end."""
    kept = (
        "messageId", "conversationId", "parentMessageId", "isCreatedByUser", "model", "sender", "endpoint", "text",
        "content", "tokenCount", "attachments",
    )  # fmt: skip
    return {
        "final": True,
        "conversation": dict(conversation),
        "title": conversation["title"],
        "requestMessage": question,
        "responseMessage": {k: answer[k] for k in kept} | more,
    }


def aborted_final(question: Json, answer: Json, speaker: Speaker) -> Json:
    """The last event of an answer that was stopped; the title is always New Chat (recorded)."""
    asked = ("messageId", "parentMessageId", "conversationId", "text", "isCreatedByUser")
    shown = {
        **answer,
        "parentMessageId": question["messageId"],
        "conversationId": question["conversationId"],
        "sender": speaker.sender,
        "endpoint": speaker.endpoint,
        "model": speaker.shown_model,
        "unfinished": True,
        "error": False,
        "isCreatedByUser": False,
    }
    return {
        "final": True,
        "conversation": {"conversationId": question["conversationId"]},
        "title": "New Chat",
        "requestMessage": {k: question[k] for k in asked},
        "responseMessage": shown,
        "aborted": True,
        "earlyAbort": False,
    }


def early_final() -> Json:
    """The last event of a job that was stopped before anything was said or saved."""
    nothing = dict.fromkeys(("conversation", "requestMessage", "responseMessage"))
    return {"final": True, **nothing, "title": "New Chat", "aborted": True, "earlyAbort": True}
