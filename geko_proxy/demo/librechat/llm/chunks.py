"""What a chat/completions stream says, chunk by chunk, as LangChain's client reads it."""

from __future__ import annotations

from collections.abc import Iterator

from geko_proxy.demo.librechat.chat.provider import Delta, ModelCall, ToolCall, Usage
from geko_proxy.demo.librechat.express import Json, nanoid


def pieces_of(chunk: Json, call: ModelCall) -> Iterator[Delta]:
    """The pieces in a chunk; usage and the answer's id are noted in the call."""
    call.answer_id = str(chunk.get("id") or call.answer_id)
    if isinstance(chunk.get("usage"), dict):
        call.usage = usage_of(chunk["usage"])
    for choice in chunk.get("choices") or []:
        delta = choice.get("delta") or {}
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if thought:
            yield Delta("think", str(thought))
        if delta.get("content"):
            yield Delta("text", str(delta["content"]))
        for part in delta.get("tool_calls") or []:
            yield from _tool_pieces(part, call)


def _tool_pieces(part: Json, call: ModelCall) -> Iterator[Delta]:
    at, function = int(part.get("index") or 0), part.get("function") or {}
    while len(call.asked_tools) <= at:
        made = ToolCall(str(part.get("id") or nanoid("call_")), str(function.get("name") or ""))
        call.asked_tools.append(made)
        yield Delta("tool", made.name, len(call.asked_tools) - 1)
    if function.get("arguments"):
        call.asked_tools[at].args += str(function["arguments"])
        yield Delta("arguments", str(function["arguments"]), at)


def take_whole(reply: Json, call: ModelCall) -> str:
    """The text of a reply in one piece; usage and tool calls are noted in the call."""
    if isinstance(reply.get("usage"), dict):
        call.usage = usage_of(reply["usage"])
    choices = reply.get("choices") or [{}]
    message = choices[0].get("message") or {}
    for asked in message.get("tool_calls") or []:
        function = asked.get("function") or {}
        call.asked_tools.append(
            ToolCall(str(asked.get("id")), str(function.get("name")), str(function.get("arguments")))
        )
    return str(message.get("content") or "")


def usage_of(said: Json) -> Usage:
    """Usage as LibreChat takes it over; a total above prompt and completion is thought that nobody saw."""
    prompt, completion = int(said.get("prompt_tokens") or 0), int(said.get("completion_tokens") or 0)
    cached = int((said.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
    thought = int((said.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0)
    hidden = max(0, int(said.get("total_tokens") or 0) - prompt - completion)
    return Usage(prompt, completion, cached, thought, hidden=hidden)
