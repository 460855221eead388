"""What a call is for, as the ledger names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

CHAT: Final = "chat"
SAID: Final = frozenset({CHAT, "title", "memory", "summary", "embedding", "image", "audio", "moderation"})
BY_OPERATION: Final[Mapping[str, str]] = {
    "embeddings": "embedding",
    "images": "image",
    "speech": "audio",
    "transcriptions": "audio",
    "translations": "audio",
}
IN_ONE_PIECE: Final = frozenset({"title", "memory"})  # as LibreChat asks for them


def kind_of(operation: str, said: str | None, body: Mapping[str, Any]) -> str:
    """The kind: what LibreChat's configuration says (the header x-geko-kind), else by the API.

    operation: the API, as in the route table; body: of the call.
    """
    if said in IN_ONE_PIECE and body.get("stream") is True:
        return CHAT  # somebody chats by an endpoint that is meant for hidden work
    if said in SAID:
        return said
    return BY_OPERATION.get(operation, CHAT)
