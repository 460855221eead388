"""Short ways to write the rules of /v1's route tables."""

from __future__ import annotations

from typing import Any

from geko_proxy.exchange import Route
from geko_proxy.librechat import Rule
from geko_proxy.workspaces.access import PUBLIC, AccessRule

JSON = ("application/json",)


def for_all(
    operation: str, body: type[Any] | None = None, reply: type[Any] | None = None, status: int = 200
) -> Rule:
    """The rule of an endpoint for anybody. body, reply: their Structs; status: of success."""
    return Rule(Route.PUBLIC, operation, access=PUBLIC, body=body, reply=reply, status=status)


def own(
    operation: str,
    access: AccessRule,
    body: type[Any] | None = None,
    reply: type[Any] | None = None,
    status: int = 200,
    media: tuple[str, ...] = JSON,
) -> Rule:
    """The rule of an endpoint for people who are signed in, and who `access` lets in."""
    return Rule(Route.OWN, operation, access=access, body=body, reply=reply, status=status, media=media)
