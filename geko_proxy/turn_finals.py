"""The last event of an answer that was cut: what of LibreChat's final had been passed on, or a final of GEKO's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from geko_proxy.event_log import EventLog
from geko_proxy.sse import SseEvent

TEXT: Final = b'{"event":"on_message_delta"'
THOUGHT: Final = b'{"event":"on_reasoning_delta"'
PARTS: Final[Mapping[bytes, str]] = {TEXT: "text", THOUGHT: "think"}


def passed_text(events: EventLog, mark: bytes, before: Mapping[str, str]) -> str:
    """The answer's text (or what it thought aloud) as it was passed on.

    mark: TEXT or THOUGHT. before: what had been made, by kind of part, before a log that begins in the middle.
    """
    parts = [before.get(PARTS[mark], "")]
    for raw in events.events:
        if mark not in raw[:48]:
            continue
        content = SseEvent(raw).json["data"]["delta"].get("content") or ()
        parts.extend([part.get("text") or part.get("think") or "" for part in content])
    return "".join(parts)


def only_passed_on(content: Any, events: EventLog, before: Mapping[str, str]) -> list[Any]:
    """The content of LibreChat's final without what was generated but not passed on before the cut."""
    left = {kind: len(passed_text(events, mark, before)) for mark, kind in PARTS.items()}
    kept = []
    for part in content if isinstance(content, list) else []:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in left and isinstance(part.get(kind), str):
            text = part[kind][: left[kind]]
            left[kind] -= len(text)
            if text:
                kept.append({**part, kind: text})
        else:
            kept.append(part)
    return kept


def own_final(
    conversation_id: str, question: Mapping[str, Any], message_id: str, model: str, text: str
) -> dict[str, Any]:
    """A final made from what was passed on, for when LibreChat sends none (contract §4.5)."""
    message = {
        "messageId": message_id,
        "conversationId": conversation_id,
        "parentMessageId": question.get("messageId"),
        "isCreatedByUser": False,
        "sender": "Assistant",
        "model": model,
        "text": "",
        "content": [{"type": "text", "text": text}],
        "unfinished": True,
        "error": False,
    }
    return {
        "final": True,
        "aborted": True,
        "conversation": {"conversationId": conversation_id},
        "title": "New Chat",
        "requestMessage": question,
        "responseMessage": message,
    }
