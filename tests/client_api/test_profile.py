"""A person's own profile."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from geko_proxy.accounts.tokens import Identity
from geko_proxy.client_api.profile import Profile
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Reply
from geko_proxy.services import Services
from geko_proxy.workspaces.roles import Role
from tests.client_api.conftest import Call
from tests.conftest import Account


@pytest.fixture
def profile(services: Services) -> Profile:
    return Profile(services)


def value(reply: Reply) -> Any:
    return msgspec.json.decode(reply.body or b"null")


def signed_in(call: tuple[Exchange, Any], account: Account) -> tuple[Exchange, Any]:
    call[0].user = Identity(
        account.user_id, account.tenant_id, account.workspace_id, Role.OWNER, account.user_id
    )
    return call


async def test_a_new_account(profile: Profile, call: Call, account: Account) -> None:
    shape = value(await profile.get(*signed_in(call(), account)))
    assert shape.pop("createdAt")
    assert shape == {
        "id": str(account.user_id),
        "email": account.email,
        "emailVerified": False,
        "name": "Somebody",
        "username": None,
        "avatar": None,
        "language": None,
        "timeZone": None,
    }


async def test_is_changed_field_by_field(
    profile: Profile, call: Call, account: Account, services: Services
) -> None:
    body = {
        "name": " Zoë ",
        "avatar": "https://example.org/z.png",
        "language": "pt-br",
        "timeZone": "Europe/Berlin",
    }
    first = value(await profile.patch(*signed_in(call(body), account)))
    assert (first["name"], first["language"], first["timeZone"]) == ("Zoë", "pt-BR", "Europe/Berlin")
    second = value(await profile.patch(*signed_in(call({"language": None, "avatar": None}), account)))
    assert second == {**first, "language": None, "avatar": None}
    assert value(await profile.patch(*signed_in(call({}), account))) == second
    assert value(await profile.get(*signed_in(call(), account))) == second
    async with services.database.tenant(account.tenant_id) as scope:
        rows = await scope.fetch("select action, details from audit_log where tenant_id = $1")
    assert [row["action"] for row in rows] == ["profile.change"] * 2


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"name": " "}, {"name"}),
        ({"name": None}, {"name"}),
        ({"name": "a\u0007b"}, {"name"}),
        ({"name": "x" * 81}, {"name"}),
        ({"avatar": "http://example.org/x.png", "language": "klingon!", "timeZone": "Mars"}, None),
        ({"avatar": "data:image/svg+xml;base64,AAAA"}, {"avatar"}),
        ({"avatar": 7}, {"avatar"}),
        ({"time_zone": "UTC"}, {"time_zone"}),
        ({"email": "new@example.org"}, {"email"}),
        ({"emailVerified": True, "userId": "x"}, {"emailVerified", "userId"}),
    ],
)
async def test_bad_fields_are_named_and_nothing_is_changed(
    profile: Profile, call: Call, account: Account, body: dict[str, Any], fields: set[str] | None
) -> None:
    before = value(await profile.get(*signed_in(call(), account)))
    with pytest.raises(Refused) as refused:
        await profile.patch(*signed_in(call({"name": "New", **body}), account))
    assert (refused.value.status, set(refused.value.details or {})) == (400, fields or set(body))
    assert value(await profile.get(*signed_in(call(), account))) == before


async def test_an_account_that_is_gone(
    profile: Profile, call: Call, account: Account, services: Services
) -> None:
    async with services.database.tenant(account.tenant_id) as scope:
        await scope.execute("update users set disabled_at = now() where tenant_id = $1")
    for endpoint in (profile.get, profile.patch):
        with pytest.raises(Refused) as refused:
            await endpoint(*signed_in(call({}), account))
        assert refused.value.status == 401
