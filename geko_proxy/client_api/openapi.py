"""GET /v1/openapi.json: the OpenAPI 3.1 document of /v1, made from the route tables and the Structs they name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from aiohttp import web

from geko_proxy import __version__
from geko_proxy.client_api.shapes import ErrorReply
from geko_proxy.client_api.validation import Body
from geko_proxy.exchange import Exchange, Reply, Route
from geko_proxy.librechat import Rule
from geko_proxy.proxy import Endpoint
from geko_proxy.workspaces.access import PUBLIC, AccessRule, Place

Row = tuple[str, str, Rule, Endpoint]

SCHEMAS: Final = "#/components/schemas/{name}"
PARAMETER: Final = re.compile(r"\{(\w+)\*?\}")
COOKIE_OPERATIONS: Final = frozenset({"auth.refresh", "auth.logout"})  # a browser's cookie will do
NO_BODY: Final = (204, 304)
ERRORS: Final[dict[int | str, str]] = {
    400: "The request is not valid; `details` names the fields.",
    401: "Nobody is signed in, or not any more.",
    403: "The role does not allow this.",
    404: "There is nothing under this path for the caller.",
    429: "Too many requests; Retry-After says when to come again.",
    "default": "Any other error.",
}


def with_document(rows: Sequence[Row]) -> list[Row]:
    """The rows and one more, which serves the document of them all."""
    rule = Rule(Route.PUBLIC, "openapi", access=PUBLIC, reply=dict)
    document = Document()
    all_rows: list[Row] = [*rows, ("GET", "/v1/openapi.json", rule, document.get)]
    document.body = msgspec.json.encode(describe(all_rows))
    return all_rows


class Document:
    """The endpoint. body: the document, the same for everybody as long as the process lives."""

    def __init__(self) -> None:
        self.body = b""

    async def get(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """This document."""
        reply = Reply(200, body=self.body)
        reply.headers["Content-Type"] = "application/json; charset=utf-8"
        reply.headers["Cache-Control"] = "public, max-age=60"
        return reply


def describe(rows: Iterable[Row]) -> dict[str, Any]:
    """The document of the rows under /v1. Raises ValueError for one that declares no access rule."""
    served = [row for row in rows if row[1].startswith("/v1/")]
    given = (kind for _, _, rule, _ in served for kind in (rule.body, rule.reply, rule.created))
    types = {kind for kind in given if kind is not None and issubclass(kind, msgspec.Struct)}
    kinds: list[type[Any]] = [ErrorReply, *sorted(types, key=lambda kind: kind.__name__)]
    references, components = msgspec.json.schema_components(kinds, ref_template=SCHEMAS)
    named = dict(zip(kinds, references, strict=True))
    for kind in types:
        if issubclass(kind, Body):  # `parse` refuses unknown fields
            components[kind.__name__]["additionalProperties"] = False
    paths: dict[str, dict[str, Any]] = {}
    for methods, path, rule, endpoint in served:
        for method in methods.split(","):
            paths.setdefault(path.replace("*}", "}"), {})[method.lower()] = operation(
                path, rule, endpoint, named
            )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "GEKO",
            "version": __version__,
            "description": "GEKO's own API. LibreChat's routes are served under their own paths beside it.",
        },
        "servers": [{"url": "/"}],
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": components, "securitySchemes": SECURITY_SCHEMES},
    }


SECURITY_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An access token of /v1/auth."},
    "cookie": {
        "type": "apiKey",
        "in": "cookie",
        "name": "geko_refresh",
        "description": "A browser's refresh token; only from GEKO's own pages. Over https: __Host-geko_refresh.",
    },
}


def operation(path: str, rule: Rule, endpoint: Endpoint, named: dict[Any, Any]) -> dict[str, Any]:
    """The description of one route."""
    access = rule.access
    if access is None:
        raise ValueError(f"route {rule.operation} ({path}) declares no access rule")
    summary, _, more = inspect.cleandoc(endpoint.__doc__ or "").partition("\n\n")
    described: dict[str, Any] = {
        "operationId": rule.operation,
        "tags": [path.split("/")[2]],
        "summary": " ".join(summary.split()),
        "description": f"{more}\n\nWho: {access.describe()}".strip(),
        "security": security(rule, access),
        "x-geko-access": {
            "place": access.place.value,
            "permission": access.permission.name.lower() if access.permission is not None else None,
            "roles": [role.value for role in access.roles],
            "orSelf": access.or_self,
        },
        "responses": responses(path, rule, access, named),
    }
    if parameters := [parameter(name) for name in PARAMETER.findall(path)]:
        described["parameters"] = parameters
    if rule.body is not None:
        described["requestBody"] = {
            "required": any(field.required for field in msgspec.structs.fields(rule.body)),
            "content": {"application/json": {"schema": named[rule.body]}},
        }
    return described


def parameter(name: str) -> dict[str, Any]:
    """A parameter of a path; those called …Id are UUIDs."""
    schema = {"type": "string", "format": "uuid"} if name.endswith("Id") else {"type": "string"}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def security(rule: Rule, access: AccessRule) -> list[dict[str, list[str]]]:
    """What a caller has to show: one of these; none: nothing."""
    if rule.operation in COOKIE_OPERATIONS:
        return [{}, {"cookie": []}]
    return [] if access.place is Place.NOWHERE else [{"bearer": []}]


def responses(path: str, rule: Rule, access: AccessRule, named: dict[Any, Any]) -> dict[str, Any]:
    """Success and the errors that a caller has to expect."""
    success: dict[str, Any] = {"description": "Done."}
    if rule.status not in NO_BODY:
        schema = named.get(rule.reply, {"type": "object"})
        success["content"] = {
            media: {"schema": schema if media == "application/json" else {"type": "string"}}
            for media in rule.media
        }
    found = {str(rule.status): success}
    if rule.created is not None:
        made = {"application/json": {"schema": named[rule.created]}}
        found["201"] = {"description": "Created.", "content": made}
    error = {"application/json": {"schema": named[ErrorReply]}}
    for status, text in ERRORS.items():
        if is_expected(status, path, rule, access):
            found[str(status)] = {"description": text, "content": error}
    return found


def is_expected(status: int | str, path: str, rule: Rule, access: AccessRule) -> bool:
    """Whether a route may answer with this error."""
    if status == 400:
        return rule.body is not None
    if status == 401:
        return access.place is not Place.NOWHERE or rule.body is not None
    if status == 403:
        return access.permission is not None or rule.body is not None
    return status != 404 or "{" in path
