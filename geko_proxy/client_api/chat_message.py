"""The body of POST /v1/chat/send and the LibreChat message that it becomes (contract §4.1; recording 20). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final
from uuid import uuid4

from msgspec import Meta

from geko_proxy.client_api.validation import Body, invalid
from geko_proxy.policy.selection import AGENTS, BUILT_IN_ENDPOINTS, MAX_NAME_LENGTH

ROOT: Final = "00000000-0000-0000-0000-000000000000"
MAX_MESSAGE_LENGTH: Final = 2_000_000

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_LENGTH, pattern=r"^[^\x00-\x1f\x7f]+\Z")]
Id = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,100}\Z")]  # it becomes part of a path


class SendBody(Body, frozen=True):
    """POST /v1/chat/send.

    model: "Endpoint/model", or with `endpoint` the model alone; both left out: the conversation's last one, in a new
    conversation the workspace's default. parentMessageId: the message to answer, the last one when left out.
    """

    message: Annotated[str, Meta(min_length=1, max_length=MAX_MESSAGE_LENGTH)]
    model: Name | None = None
    endpoint: Name | None = None
    conversation_id: Id | None = None
    parent_message_id: Id | None = None
    stream: bool = True


def check(body: SendBody) -> None:
    """Raises Refused 400 for what each field allows but not all of them together."""
    if not body.message.strip():
        raise invalid({"message": "Must not be blank."})
    if body.parent_message_id is not None and body.conversation_id is None:
        raise invalid({"parentMessageId": "Needs a conversationId."})


def chosen_model(body: SendBody, history: Sequence[Mapping[str, Any]]) -> tuple[str | None, str | None]:
    """Endpoint and model of the message, None where the workspace has to choose. history: oldest message first."""
    endpoint, model = body.endpoint, body.model
    if endpoint is None and model is None:
        return last_model(history)
    if endpoint is None and model is not None and "/" in model:
        endpoint, _, model = model.partition("/")
    elif endpoint is not None and model is not None:
        model = model.removeprefix(f"{endpoint}/")
    return endpoint or None, model or None


def last_model(history: Sequence[Mapping[str, Any]]) -> tuple[str | None, str | None]:
    """Endpoint and model of the last answer."""
    for message in reversed(history):
        endpoint, model = message.get("endpoint"), message.get("model")
        if not message.get("isCreatedByUser") and isinstance(endpoint, str) and isinstance(model, str):
            return endpoint, model
    return None, None


def librechat_message(
    body: SendBody, endpoint: str | None, model: str | None, parent_message_id: str, now: datetime
) -> dict[str, Any]:
    """The message as LibreChat's own client would send it. now: an aware time in UTC."""
    message: dict[str, Any] = {
        "text": body.message,
        "sender": "User",
        "clientTimestamp": f"{now:%Y-%m-%dT%H:%M:%S}",
        "isCreatedByUser": True,
        "parentMessageId": parent_message_id,
        "messageId": str(uuid4()),
        "error": False,
        "conversationId": body.conversation_id,
        "isTemporary": False,
        "isRegenerate": False,
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
    if endpoint is not None:
        message["endpoint"] = endpoint
        message["endpointType"] = None if endpoint in BUILT_IN_ENDPOINTS else "custom"
    if model is not None:
        message["agent_id" if endpoint == AGENTS else "model"] = model
    return message
