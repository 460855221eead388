"""/v1/auth against a real database."""

from __future__ import annotations

import asyncio
from time import time
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from geko_proxy.accounts.registration import Registered
from geko_proxy.client_api.auth import Auth
from geko_proxy.client_api.backoff import Rule
from geko_proxy.client_api.login_limits import LoginLimits
from geko_proxy.client_api.sign_in import SignIns
from geko_proxy.errors import Refused
from geko_proxy.exchange import Reply
from geko_proxy.services import Services
from geko_proxy.workspaces.roles import Role
from tests.client_api.conftest import Call

PASSWORD = "Correct-Horse-9"
ANN = {"email": "Ann@Example.org", "password": PASSWORD, "name": "Ann", "tenantName": "Ann Ltd"}


@pytest.fixture
def auth(services: Services) -> Auth:
    return Auth(services, SignIns(services, LoginLimits(account=Rule(3, 60, 60, 600))))


def value(reply: Reply) -> Any:
    return msgspec.json.decode(reply.body or b"null")


def cookie(reply: Reply) -> str:
    return reply.headers["Set-Cookie"].partition(";")[0].removeprefix("__Host-geko_refresh=")


async def refused(endpoint: Any, call: Any) -> tuple[int, str]:
    with pytest.raises(Refused) as found:
        await endpoint(*call)
    return found.value.status, found.value.code


async def is_over(services: Services, access_token: str) -> bool:
    identity = services.tokens.verify(access_token, time())
    return not await services.sessions.is_active(identity.tenant_id, identity.session_id)


async def test_register_signs_the_owner_in(auth: Auth, call: Call, services: Services) -> None:
    reply = await auth.register(*call(ANN))
    shape = value(reply)
    assert reply.status == 201
    assert set(shape) == {
        "accessToken", "tokenType", "expiresIn", "refreshToken", "refreshExpiresIn", "user", "tenant", "workspace",
        "role",
    }  # fmt: skip
    assert (shape["tokenType"], shape["expiresIn"], shape["role"]) == ("Bearer", 900, "owner")
    assert 604_000 < shape["refreshExpiresIn"] <= 604_800
    assert (shape["user"]["email"], shape["tenant"]["name"]) == ("ann@example.org", "Ann Ltd")
    identity = services.tokens.verify(shape["accessToken"], time())
    assert (str(identity.user_id), identity.role) == (shape["user"]["id"], Role.OWNER)
    assert str(identity.workspace_id) == shape["workspace"]["id"]
    assert cookie(reply) == shape["refreshToken"]
    assert await refused(auth.register, call(ANN)) == (409, "email_taken")


async def test_every_bad_field_is_named(auth: Auth, call: Call) -> None:
    with pytest.raises(Refused) as found:
        await auth.register(*call({"email": "nope", "password": "short", "name": "Ann"}))
    assert found.value.status == 400
    assert set(found.value.details or {}) == {"email", "password"}


async def test_registration_can_be_off(without_registration: Services, call: Call) -> None:
    auth = Auth(without_registration, SignIns(without_registration, LoginLimits()))
    assert await refused(auth.register, call(ANN)) == (403, "registration_off")


async def test_a_wrong_password_and_an_unknown_email_look_alike(auth: Auth, call: Call) -> None:
    await auth.register(*call(ANN))
    messages = []
    for email in ("ann@example.org", "bob@example.org"):
        with pytest.raises(Refused) as found:
            await auth.login(*call({"email": email, "password": "Wrong-Horse-9"}))
        messages.append((found.value.status, found.value.code, found.value.message))
    assert messages[0] == messages[1]
    assert messages[0][:2] == (401, "wrong_credentials")


async def test_guessing_is_slowed_down_even_at_once(auth: Auth, call: Call) -> None:
    await auth.register(*call(ANN))
    bad = {"email": "ann@example.org", "password": "Wrong-Horse-9"}
    found = await asyncio.gather(*(refused(auth.login, call(bad)) for _ in range(8)))
    assert sorted(found) == [(401, "wrong_credentials")] * 3 + [(429, "too_many_attempts")] * 5
    assert await refused(auth.login, call({**bad, "password": PASSWORD})) == (429, "too_many_attempts")


async def register_ann(services: Services) -> Registered:
    return await services.registration.register(
        email="ann@example.org", password=PASSWORD, name="Ann", token_limit=None
    )


async def test_the_workspace_can_be_chosen(auth: Auth, call: Call, services: Services) -> None:
    ann = await register_ann(services)
    second = await services.workspaces.create(ann.tenant.tenant_id, "Second", ann.user.user_id)
    login = {"email": "ann@example.org", "password": PASSWORD}
    assert value(await auth.login(*call(login)))["workspace"]["name"] == "Default"
    shape = value(await auth.login(*call({**login, "workspaceId": str(second.workspace_id)})))
    assert shape["workspace"] == {"id": str(second.workspace_id), "name": "Second"}
    assert await refused(auth.login, call({**login, "workspaceId": str(uuid4())})) == (403, "not_a_member")


async def test_a_suspended_tenant(auth: Auth, call: Call, services: Services, dsn: str) -> None:
    ann = await register_ann(services)
    tokens = value(await auth.login(*call({"email": "ann@example.org", "password": PASSWORD})))
    async with services.database.tenant(ann.tenant.tenant_id) as scope:
        await scope.execute("update tenants set status = 'suspended' where tenant_id = $1")
    services.tenants._cache.drop("*")  # another instance wrote it
    login = call({"email": "ann@example.org", "password": PASSWORD})
    assert await refused(auth.login, login) == (403, "tenant_not_active")
    refresh = call({"refreshToken": tokens["refreshToken"]})
    assert await refused(auth.refresh, refresh) == (401, "session_over")


async def test_refresh_by_body_rotates(auth: Auth, call: Call, services: Services) -> None:
    first = value(await auth.register(*call(ANN)))
    reply = await auth.refresh(*call({"refreshToken": first["refreshToken"]}))
    second = value(reply)
    assert "Set-Cookie" not in reply.headers
    assert second["refreshToken"] != first["refreshToken"]
    assert second["user"] == first["user"]
    again = call({"refreshToken": first["refreshToken"]})
    assert await refused(auth.refresh, again) == (401, "session_over")  # used twice: a copy is about
    assert await is_over(services, second["accessToken"])
    async with services.database.tenant(
        services.tokens.verify(first["accessToken"], time()).tenant_id
    ) as scope:
        last = "select action from audit_log where tenant_id = $1 order by occurred_at desc limit 1"
        assert await scope.fetch_value(last) == "session.reuse"


async def test_refresh_by_cookie_keeps_the_token_from_scripts(auth: Auth, call: Call) -> None:
    first = value(await auth.register(*call(ANN)))
    cookies = {"__Host-geko_refresh": first["refreshToken"]}
    foreign = call(cookies=cookies, headers={"Origin": "https://evil.example"})
    assert await refused(auth.refresh, foreign) == (401, "not_signed_in")
    reply = await auth.refresh(*call(cookies=cookies))
    assert "refreshToken" not in value(reply)
    assert cookie(reply) not in ("", first["refreshToken"])


async def test_refresh_after_leaving_the_workspace(auth: Auth, call: Call, services: Services) -> None:
    ann = await register_ann(services)
    key = (ann.tenant.tenant_id, ann.workspace.workspace_id)
    bob = await services.registration.add_member(*key, "bob@example.org", PASSWORD, "Bob", Role.MEMBER)
    tokens = value(await auth.login(*call({"email": "bob@example.org", "password": PASSWORD})))
    await services.members.remove(*key, bob.user_id)
    refresh = call({"refreshToken": tokens["refreshToken"]})
    assert await refused(auth.refresh, refresh) == (401, "session_over")
    login = call({"email": "bob@example.org", "password": PASSWORD})
    assert await refused(auth.login, login) == (403, "no_workspace")


@pytest.mark.parametrize("how", ["bearer", "body", "cookie", "expired bearer and cookie"])
async def test_logout(auth: Auth, call: Call, services: Services, how: str) -> None:
    tokens = value(await auth.register(*call(ANN)))
    access, refresh = tokens["accessToken"], tokens["refreshToken"]
    match how:
        case "bearer":
            asked = call(headers={"Authorization": f"Bearer {access}"})
        case "body":
            asked = call({"refreshToken": refresh})
        case "cookie":
            asked = call(cookies={"__Host-geko_refresh": refresh})
        case _:
            old = services.tokens.issue(services.tokens.verify(access, time()), uuid4(), now=1000)
            asked = call(cookies={"__Host-geko_refresh": refresh}, headers={"Authorization": f"Bearer {old}"})
    reply = await auth.logout(*asked)
    assert (reply.status, cookie(reply)) == (204, "")
    assert await is_over(services, access)
    assert await refused(auth.refresh, call({"refreshToken": refresh})) == (401, "session_over")


async def test_logout_without_anything_is_no_error(auth: Auth, call: Call) -> None:
    assert (await auth.logout(*call(headers={"Authorization": "Bearer x"}))).status == 204


async def test_me(auth: Auth, call: Call, services: Services) -> None:
    ann = await register_ann(services)
    tokens = value(await auth.login(*call({"email": "ann@example.org", "password": PASSWORD})))
    exchange, request = call()
    exchange.user = services.tokens.verify(tokens["accessToken"], time())
    exchange.tenant, exchange.workspace, exchange.role = ann.tenant, ann.workspace, Role.OWNER
    shape = value(await auth.me(exchange, request))
    assert shape == {key: tokens[key] for key in ("user", "tenant", "workspace", "role")}
    exchange.workspace = exchange.role = None  # removed from it; the session is still good for another one
    assert value(await auth.me(exchange, request))["workspace"] is None
