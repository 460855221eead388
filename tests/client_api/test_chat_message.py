"""From the body of /v1/chat/send to the message that LibreChat's own client would send."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from geko_proxy.client_api.chat_message import ROOT, SendBody, check, chosen_model, librechat_message
from geko_proxy.client_api.validation import parse
from geko_proxy.errors import Refused

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
HISTORY = [
    {"messageId": "q", "isCreatedByUser": True, "endpoint": "Mock", "model": None},
    {"messageId": "a", "isCreatedByUser": False, "endpoint": "Mock", "model": "gpt-4o"},
    {"messageId": "q2", "isCreatedByUser": True, "endpoint": "Mock", "model": None},
]


def test_a_new_conversation() -> None:
    message = librechat_message(parse(SendBody, {"message": "Hi"}), "Mock", "gpt-4o", ROOT, NOW)
    assert UUID(message.pop("messageId")).version == 4
    assert message == {
        "text": "Hi",
        "sender": "User",
        "clientTimestamp": "2026-11-22T12:00:00",
        "isCreatedByUser": True,
        "parentMessageId": "00000000-0000-0000-0000-000000000000",
        "error": False,
        "endpoint": "Mock",
        "endpointType": "custom",
        "model": "gpt-4o",
        "isTemporary": False,
        "isRegenerate": False,
        "conversationId": None,
        "isContinued": False,
        "ephemeralAgent": {
            "mcp": [],
            "web_search": False,
            "file_search": False,
            "execute_code": False,
            "artifacts": False,
        },
        "timezone": "UTC",
    }


def test_what_the_workspace_chooses_is_left_out() -> None:
    message = librechat_message(parse(SendBody, {"message": "Hi"}), None, None, ROOT, NOW)
    assert not {"endpoint", "endpointType", "model"} & set(message)


def test_built_in_endpoints_and_agents() -> None:
    body = parse(SendBody, {"message": "Hi"})
    assert librechat_message(body, "openAI", "gpt-4o", ROOT, NOW)["endpointType"] is None
    agent = librechat_message(body, "agents", "agent_1", ROOT, NOW)
    assert agent["agent_id"] == "agent_1"
    assert "model" not in agent


@pytest.mark.parametrize(
    ("body", "chosen"),
    [
        ({"model": "Mock/gpt-4o"}, ("Mock", "gpt-4o")),
        ({"model": "Router/meta/llama-3"}, ("Router", "meta/llama-3")),
        ({"model": "meta/llama-3", "endpoint": "Router"}, ("Router", "meta/llama-3")),
        ({"model": "Mock/gpt-4o", "endpoint": "Mock"}, ("Mock", "gpt-4o")),
        ({"model": "gpt-4o"}, (None, "gpt-4o")),
        ({"endpoint": "Mock"}, ("Mock", None)),
        ({}, ("Mock", "gpt-4o")),
    ],
)
def test_the_model(body: dict[str, Any], chosen: tuple[str | None, str | None]) -> None:
    assert chosen_model(parse(SendBody, {"message": "Hi", **body}), HISTORY) == chosen


def test_nothing_named_in_a_new_conversation() -> None:
    assert chosen_model(parse(SendBody, {"message": "Hi"}), []) == (None, None)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "message"),
        ({"message": ""}, "message"),
        ({"message": " \n"}, "message"),
        ({"message": "x", "conversationID": "c"}, "conversationID"),
        ({"message": "x", "conversationId": "../user"}, "conversationId"),
        ({"message": "x", "conversationId": "c\n"}, "conversationId"),
        ({"message": "x", "parentMessageId": "m"}, "parentMessageId"),
        ({"message": "x", "model": "a\x00b"}, "model"),
        ({"message": "x", "model": "m" * 300}, "model"),
        ({"message": "x", "stream": "no"}, "stream"),
    ],
)
def test_bad_bodies(body: dict[str, Any], field: str) -> None:
    with pytest.raises(Refused) as refused:
        check(parse(SendBody, body))
    assert refused.value.status == 400
    assert list(refused.value.details or {}) == [field]
