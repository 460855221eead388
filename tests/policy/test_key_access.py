"""What API keys may be used for."""

from __future__ import annotations

from typing import Any, cast
from uuid import uuid4

import pytest

from geko_proxy import admin_api, client_api
from geko_proxy.accounts.api_keys import ApiKey, KeyScope
from geko_proxy.accounts.key_text import PREFIX
from geko_proxy.client_api.chat import StartChat
from geko_proxy.config import Settings
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Route
from geko_proxy.librechat import ROWS
from geko_proxy.policy.key_access import PERMISSIONS, SCOPES, check_key
from geko_proxy.services import Services
from tests.fake_services import TENANT, USER, WORKSPACE, exchange_of, own_exchange

FULL = frozenset(KeyScope)


def key(*scopes: KeyScope) -> ApiKey:
    return ApiKey(TENANT, uuid4(), WORKSPACE, USER, "ci", frozenset(scopes))


def own_routes() -> list[tuple[str, str, Any, Any]]:
    parts: dict[str, Any] = dict.fromkeys(Services.__dataclass_fields__)
    services = Services(**{**parts, "settings": Settings()})
    start = cast(StartChat, None)
    return [*client_api.routes(services, start), *admin_api.routes(services)]


def test_the_table_names_operations_that_exist() -> None:
    assert set(SCOPES) <= {rule.operation for _, _, rule, _ in own_routes()}
    assert set(PERMISSIONS) == set(KeyScope)


@pytest.mark.parametrize(
    "operation", sorted({rule.operation for *_, rule, _ in own_routes() if rule.route is Route.OWN})
)
def test_every_endpoint_needs_its_scope_or_a_session(operation: str) -> None:
    exchange = own_exchange(operation)
    if operation not in SCOPES:
        with pytest.raises(Refused, match="Sign in instead"):
            check_key(exchange, key(*KeyScope))
        return
    needed = SCOPES[operation]
    if needed is None:
        check_key(exchange, key(KeyScope.CHAT))
        return
    check_key(exchange, key(needed))
    with pytest.raises(Refused, match=f"scope {needed}"):
        check_key(exchange, key(*(FULL - {needed, KeyScope.WORKSPACE_WRITE})))


@pytest.mark.parametrize(
    "words", ["api_keys", "session", "password", "member", "invitation", "totp", "profile"]
)
def test_what_gives_rights_is_not_in_the_table(words: str) -> None:
    assert not [operation for operation in SCOPES if words in operation]


@pytest.mark.parametrize("row", [row for row in ROWS if row[2].route not in (Route.BLOCKED, Route.PUBLIC)])
def test_no_route_of_the_web_client_takes_a_key(row: tuple[str, str, Any]) -> None:
    methods, path, _ = row
    method = methods.split(",")[0].replace("*", "GET")
    exchange = exchange_of(method, path.replace("{", "").replace("}", "").replace("*", ""), b"{}")
    with pytest.raises(Refused) as caught:
        check_key(exchange, key(*KeyScope))
    assert (caught.value.status, caught.value.code) == (403, "api_key_not_accepted")


def test_the_message_that_an_endpoint_sends_counts_as_the_endpoint() -> None:
    message: Exchange = exchange_of("POST", "/api/agents/chat", {})
    message.parent = own_exchange("chat.send")
    check_key(message, key(KeyScope.CHAT))
    with pytest.raises(Refused):
        check_key(message, key(KeyScope.USAGE_READ))


def test_a_session_token_is_never_taken_for_a_key() -> None:
    assert not "eyJ".startswith(PREFIX)  # how every JWT begins
