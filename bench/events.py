"""What the benchmark's upstream says: replies and events in LibreChat's shapes, as bytes."""

from __future__ import annotations

import json
from typing import Any

OBJECT_ID = "6b032e55267c468b9988490f"
MESSAGE_ID = "edb840db-1903-4ac5-897d-8a788d3f8e4b"
RUN_ID = "bd50411c-da38-47a7-ab3a-38216ebafcee"
STEP_ID = "step_1cFkMafxSNX04iLhXI1RS"
NO_PARENT = "00000000-0000-0000-0000-000000000000"
AGENT = "Mock__gpt-4o___Mock"
PROMPT_TOKENS = 12
CONTEXT = {
    "maxContextTokens": 121125,
    "messageCount": 1,
    "messageTokens": PROMPT_TOKENS,
    "toolTokenCounts": {},
}

WORDS = tuple(
    b"the ,quick ,brown ,fox ,jumps ,over ,a ,lazy ,dog ,while ,seven ,wise ,owls ,watch ,in ,it. ".split(
        b","
    )
)

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\nContent-Type: text/event-stream\r\n"
    b"Cache-Control: no-cache, no-transform\r\nX-Accel-Buffering: no\r\nTransfer-Encoding: chunked\r\n\r\n"
)
STREAM_END = b"0\r\n\r\n"
_DELTA_START = (
    b'event: message\ndata: {"event":"on_message_delta","data":{"id":"' + STEP_ID.encode()
    + b'","delta":{"content":[{"type":"text","text":"'
)  # fmt: skip
_DELTA = _DELTA_START + b'%b"}]},"sent":[%d,%d]}}\n\n'


def chunk(content: bytes) -> bytes:
    """Wrap bytes as one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(content), content)


def delta(number: int, now_ns: int) -> bytes:
    """One event of text. number: from 0; now_ns: CLOCK_MONOTONIC, which the load generator compares with its own.

    Number and time stand in a field of their own: in the step's id every event would look like a new model call.
    """
    return chunk(_DELTA % (WORDS[number & 15], number, now_ns))


def event(value: dict[str, Any]) -> bytes:
    """One event with JSON data, as a chunk."""
    return chunk(b"event: message\ndata: " + _json(value) + b"\n\n")


def opening(stream_id: str) -> bytes:
    """What comes before the first word: created, on_context_usage, on_run_step."""
    usage = {"runId": RUN_ID, "agentId": AGENT, "breakdown": CONTEXT, "contextBudget": 115069}
    step = {
        "stepIndex": 0,
        "id": STEP_ID,
        "type": "message_creation",
        "index": 0,
        "runId": RUN_ID,
        "usage": None,
    }
    return b"".join(
        (
            event({"created": True, "message": _question(stream_id), "streamId": stream_id}),
            event({"event": "on_context_usage", "data": usage}),
            event({"event": "on_run_step", "data": step}),
        )
    )


def closing(stream_id: str, words: int) -> bytes:
    """What comes after the last word: on_token_usage, final, and the end of the body."""
    usage = {
        "input_tokens": PROMPT_TOKENS,
        "output_tokens": words,
        "total_tokens": PROMPT_TOKENS + words,
        "model": "gpt-4o",
        "provider": "openAI",
        "runId": RUN_ID,
        "seq": 1,
    }
    answer = {
        "messageId": RUN_ID,
        "conversationId": stream_id,
        "parentMessageId": MESSAGE_ID,
        "isCreatedByUser": False,
        "model": "gpt-4o",
        "promptTokens": PROMPT_TOKENS,
        "endpoint": "Mock",
        "content": [{"type": "text", "text": f"{words} words"}],
    }
    final = {
        "final": True,
        "conversation": {"conversationId": stream_id, "endpoint": "Mock", "model": "gpt-4o"},
        "title": "New Chat",
        "requestMessage": _question(stream_id),
        "responseMessage": answer,
    }
    return event({"event": "on_token_usage", "data": usage}) + event(final) + STREAM_END


def json_reply(value: Any, status: bytes = b"200 OK") -> bytes:
    """A whole reply with a JSON body."""
    body = _json(value)
    head = b"HTTP/1.1 %b\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n\r\n"
    return head % (status, len(body)) + body


def conversations() -> dict[str, Any]:
    """The body of GET /api/convos with one conversation: about 430 bytes."""
    row = {
        "_id": "6b032e7a8f6cee2b8974ef64",
        "conversationId": "d437b130-da6e-43a0-b9da-cc2906c0c554",
        "user": OBJECT_ID,
        "createdAt": "2026-11-22T18:03:38.269Z",
        "title": "the quick brown fox jumps over the lazy dog while seven wise owls watch in quiet",
        "chatProjectId": None,
        "endpoint": "Mock",
        "agent_id": AGENT,
        "model": "gpt-4o",
        "isArchived": False,
        "updatedAt": "2026-11-22T18:03:39.270Z",
    }
    return {"conversations": [row], "nextCursor": None}


def _question(stream_id: str) -> dict[str, Any]:
    return {
        "messageId": MESSAGE_ID,
        "parentMessageId": NO_PARENT,
        "conversationId": stream_id,
        "sender": "User",
        "text": "Tell me about foxes",
        "isCreatedByUser": True,
        "tokenCount": PROMPT_TOKENS,
    }


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
