"""Checks JSON bodies against msgspec Structs and names every field that is wrong, not only the first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from geko_proxy.errors import Refused

S = TypeVar("S", bound="Body")

MAX_NAME_SHOWN = 80
MAX_SHOWN = 20


class Body(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of request bodies: snake_case here, camelCase in the JSON."""


def parse(kind: type[S], body: Mapping[str, Any]) -> S:
    """The body as a `kind`.

    Fields that `kind` does not have are refused: a misspelt `conversationID` would silently start a new conversation.
    Raises Refused 400 "invalid_request" with details {field: problem}.
    """
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    unknown = [name for name in body if name not in fields]
    problems = {name[:MAX_NAME_SHOWN]: "Unknown field." for name in unknown[:MAX_SHOWN]}
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name not in body:
            if field.required:
                problems[name] = "Required."
            continue
        try:
            values[field.name] = msgspec.convert(body[name], field.type)
        except msgspec.ValidationError as error:
            problems[name] = f"{error}."
    if problems:
        raise invalid(problems)
    return kind(**values)


def invalid(problems: Mapping[str, str]) -> Refused:
    """The refusal of a body. problems: field → what is wrong with it, for people."""
    named = "; ".join(f"{field}: {problem}" for field, problem in problems.items())
    return Refused(400, "invalid_request", f"The request is not valid: {named}", details=problems)


def read_uuid(text: str) -> UUID | None:
    """The UUID of a path's segment in its usual form, None where it is none."""
    try:
        return UUID(text) if len(text) == 36 else None
    except ValueError:
        return None
