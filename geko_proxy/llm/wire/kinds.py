"""What a call is for, as the ledger names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

CHAT: Final = "chat"
SAID: Final = frozenset({CHAT, "title", "memory", "summary", "embedding", "image", "audio", "moderation"})
BY_OPERATION: Final[Mapping[str, str]] = {"embeddings": "embedding", "images": "image", "audio": "audio"}


def kind_of(operation: str, said: str | None, body: Mapping[str, Any]) -> str:
    """The kind: what LibreChat's configuration says (the header x-geko-kind), else by the API.

    operation: the API, as in the route table; body: of the call.
    """
    if said in SAID:
        return said
    return BY_OPERATION.get(operation, CHAT)
