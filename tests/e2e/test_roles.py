"""The matrix of roles over every route of the API's document, on the running server."""

from __future__ import annotations

import asyncio
import os
import uuid
from typing import Any, NamedTuple, cast

import aiohttp
import pytest
from openapi_schema_validator import OAS31Validator, oas31_format_checker
from openapi_spec_validator import OpenAPIV31SpecValidator

from geko_proxy import admin_api, client_api
from geko_proxy.admin_api.access import guarded
from geko_proxy.client_api.openapi import describe, with_document
from geko_proxy.config import Settings
from geko_proxy.exchange import Route
from geko_proxy.librechat import Rule
from geko_proxy.services import Services
from tests.e2e.people import Answer, Person, call, invite, login, post, register
from tests.e2e.processes import Running

# Whoever opens one more route to everybody says so here too.
OPEN_TO_ALL = {
    "oauth.callback",
    "oauth.error_page",
    "oauth.providers",
    "oauth.start",
    "auth.register",
    "auth.login",
    "auth.login_totp",
    "auth.password_forgot",
    "auth.password_reset",
    "auth.jwks",
    "auth.profile.email.ask",
    "auth.profile.email.confirm",
    "auth.refresh",
    "auth.logout",
    "auth.switch_page",
    "invitations.get",
    "invitations.accept",
    "openapi",
}
ACCESS_CODES = {
    "not_signed_in",
    "invalid_token",
    "session_over",
    "forbidden",
    "read_only",
    "not_a_member",
    "workspace_not_found",
}
ROLES = ("anonymous", "viewer", "member", "admin", "owner", "outsider", "stranger")


class Operation(NamedTuple):
    """One route of the document."""

    method: str
    path: str
    says: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.says["operationId"])


def routes() -> list[tuple[str, str, Rule, Any]]:
    """The product's own tables."""
    parts: dict[str, Any] = dict.fromkeys(Services.__dataclass_fields__)
    services = Services(**{**parts, "settings": Settings()})
    return with_document([*client_api.routes(services, cast(Any, None)), *admin_api.routes(services)])


def operations() -> list[Operation]:
    paths = describe(routes())["paths"]
    return [
        Operation(method.upper(), path, says) for path, item in paths.items() for method, says in item.items()
    ]


OPERATIONS = operations()


class Office(NamedTuple):
    """People by role in one workspace. outsider: an owner elsewhere in the tenant; stranger: of another tenant."""

    workspace_id: str
    people: dict[str, Person]

    def role(self, who: str, place: str) -> str | None:
        """The role that counts for a rule's place."""
        if who == "anonymous":
            return None
        if place == "workspace":
            return who if who in ("viewer", "member", "admin", "owner") else None
        return "owner" if who == "stranger" else "member" if who == "outsider" else who


@pytest.fixture(scope="module")
def office(geko: Running) -> Office:
    return asyncio.run(build(geko.url))


async def build(url: str) -> Office:
    async with aiohttp.ClientSession(url, cookie_jar=aiohttp.DummyCookieJar()) as client:
        unique = f"{os.getpid()}x{uuid.uuid4().hex[:6]}@example.org"
        owner = await register(client, f"owner{unique}", "Olga")
        people = {"owner": owner, "stranger": await register(client, f"stranger{unique}", "Stan")}
        for role in ("admin", "member", "viewer"):
            people[role] = await invite(owner, role, f"{role}{unique}")
        made = await owner.call("POST", "/v1/workspaces", {"name": "Elsewhere"})
        assert made.status == 201, made
        people["outsider"] = await invite(owner, "member", f"out{unique}", made.json["id"])
    return Office(owner.workspace_id, people)


async def ask(client: aiohttp.ClientSession, operation: Operation, office: Office, who: str) -> Answer:
    """Call a route in somebody's name, with a body that no endpoint can do anything with."""
    values = {"workspaceId": office.workspace_id, "token": "A" * 86}
    path = operation.path
    for parameter in operation.says.get("parameters", ()):
        name = parameter["name"]
        path = path.replace(f"{{{name}}}", values.get(name, str(uuid.uuid4())))
    headers = {"Content-Type": "application/json"}
    person = office.people.get(who)
    if person is not None:
        if operation.id == "auth.logout":  # ends a session: not the one that is still needed
            person = await login(client, person.email)
        headers["Authorization"] = f"Bearer {person.token}"
    if operation.id == "usage.stream":  # it does not end by itself
        async with client.get(path, headers=headers) as reply:
            return Answer(reply.status, reply.headers.copy(), await reply.content.readany())
    data = b'{"nothing": 1}' if operation.method in ("POST", "PUT", "PATCH") else None
    return await call(client, operation.method, path, data, headers)


@pytest.mark.parametrize("who", ROLES)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.id)
async def test_each_role_on_each_route(
    client: aiohttp.ClientSession, office: Office, operation: Operation, who: str
) -> None:
    access = operation.says["x-geko-access"]
    answer = await ask(client, operation, office, who)
    code = answer.json["error"]["code"] if answer.status >= 400 else ""
    assert answer.status < 500, answer
    if access["place"] == "public":
        assert code not in ACCESS_CODES or (operation.id, code) == ("auth.refresh", "not_signed_in")
    elif who == "anonymous":
        assert (answer.status, code) == (401, "not_signed_in")
    elif access["permission"] is None:
        assert code not in ACCESS_CODES
    else:
        role = office.role(who, access["place"])
        if role is None:
            assert (answer.status, code) == (404, "workspace_not_found")
        elif role in access["roles"]:
            assert code not in ACCESS_CODES
        else:
            assert (answer.status, code) == (403, "forbidden")
    check_shape(operation, answer)


def check_shape(operation: Operation, answer: Answer) -> None:
    """The answer is what the document says of it."""
    says = operation.says["responses"].get(str(answer.status)) or operation.says["responses"]["default"]
    content = says.get("content", {})
    assert (answer.headers.get("Content-Type", "").partition(";")[0] in content) == bool(content)
    media = content.get("application/json")
    if media is None:
        assert bool(answer.raw) == bool(content)
        return
    schema = {**media["schema"], "components": describe(routes())["components"]}
    OAS31Validator(schema, format_checker=oas31_format_checker).validate(answer.json)


async def test_the_document_is_valid_and_holds_every_route(client: aiohttp.ClientSession) -> None:
    answer = await call(client, "GET", "/v1/openapi.json")
    assert answer.status == 200
    OpenAPIV31SpecValidator(answer.json).validate()
    shown = {(method, path) for path, item in answer.json["paths"].items() for method in item}
    served = {(row[0].lower(), row[1]) for row in routes() if row[1].startswith("/v1/")}
    assert shown == served
    assert len(shown) > 20
    assert {
        each.id for each in OPERATIONS if not each.says["security"] or {} in each.says["security"]
    } == OPEN_TO_ALL
    for operation in OPERATIONS:
        assert operation.says["summary"], operation.id
        if operation.method in ("POST", "PUT", "PATCH"):
            assert "requestBody" in operation.says, operation.id


def test_no_rule_gives_more_than_the_design_does() -> None:
    """A second opinion beside the declared table: what changes something is for admins at least (design §6)."""
    for operation in OPERATIONS:
        access = operation.says["x-geko-access"]
        if access["place"] == "workspace" and operation.method != "GET":
            assert set(access["roles"]) == {"admin", "owner"}, operation.id
        if access["place"] == "tenant":
            assert access["roles"] == ["owner"], operation.id
        if access["place"] == "token_workspace":
            assert "viewer" not in access["roles"] or operation.id == "usage.stream", operation.id


def test_a_route_without_a_rule_does_not_start() -> None:
    async def endpoint(*_: Any) -> Any:
        """Something new."""

    services = cast(Services, None)
    for rule in (Rule(Route.OWN, "new"), Rule(Route.PUBLIC, "new")):
        with pytest.raises(ValueError, match="declares no access"):
            guarded(services, "/v1/new", rule, endpoint)
        with pytest.raises(ValueError, match="declares no access"):
            with_document([("GET", "/v1/new", rule, endpoint)])
    for _, _, rule, _ in routes():
        if rule.access is not None and rule.access.permission is not None:
            with pytest.raises(ValueError, match="does not fit"):
                guarded(services, "/v1/new", rule._replace(route=Route.PUBLIC), endpoint)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/agents/chat/MockUsage", {"text": "hi"}),
        ("DELETE", "/api/convos", {"arg": {"conversationId": "x"}}),
        ("POST", "/api/tags", {"tag": "x"}),
        ("PUT", "/api/messages/x/y", {"text": "forged"}),
        ("POST", "/api/share/x", {}),
    ],
)
async def test_a_viewer_reads_the_own_history_and_writes_nothing(
    office: Office, client: aiohttp.ClientSession, method: str, path: str, body: Any
) -> None:
    viewer = office.people["viewer"]
    viewer = Person(client, viewer.email, viewer.token, "", viewer.workspace_id, viewer.tenant_id)
    assert (await viewer.call("GET", "/api/convos")).status == 200
    refused = await viewer.call(method, path, body)
    assert refused.status == 403, refused
    assert "viewer" in refused.raw.decode()


async def test_an_expired_or_foreign_session_is_nobody(client: aiohttp.ClientSession, office: Office) -> None:
    gone = await login(client, office.people["member"].email)
    assert (await gone.call("POST", "/v1/auth/logout")).status == 204
    for path in ("/v1/auth/me", f"/v1/workspaces/{office.workspace_id}"):
        assert (await gone.call("GET", path)).status == 401
    answer = await post(client, "/v1/auth/switch", {"workspaceId": office.workspace_id})
    assert answer.status == 401
