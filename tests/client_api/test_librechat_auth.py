"""LibreChat's sign-in routes as its own page uses them (contract §2.1–2.4)."""

from __future__ import annotations

from time import time
from typing import Any

import msgspec
import pytest

from geko_proxy.client_api.backoff import Rule
from geko_proxy.client_api.librechat_auth import LibreChatAuth
from geko_proxy.client_api.login_limits import LoginLimits
from geko_proxy.client_api.sign_in import SignIns
from geko_proxy.errors import Refused, UpstreamUnreachable
from geko_proxy.exchange import Reply
from geko_proxy.services import Services
from tests.client_api.conftest import LIBRECHAT_ID, Call, FakeLibreChat

PASSWORD = "Correct-Horse-9"
FORM = {
    "name": "Carol Browser",
    "username": "carol",
    "email": "carol@example.com",
    "password": PASSWORD,
    "confirm_password": PASSWORD,
}
LOGIN = {"email": "Carol@example.com", "password": PASSWORD}


@pytest.fixture
def page(services: Services) -> LibreChatAuth:
    return LibreChatAuth(services, SignIns(services, LoginLimits(account=Rule(3, 300, 300, 600))))


def value(reply: Reply) -> Any:
    return msgspec.json.decode(reply.body or b"null")


def cookie(reply: Reply) -> str:
    return reply.headers["Set-Cookie"].partition(";")[0].removeprefix("__Host-geko_refresh=")


def is_session_over(reply: Reply) -> bool:
    return (reply.status, reply.headers["Content-Type"], reply.body) == (
        200,
        "text/html; charset=utf-8",
        b"Refresh token not provided",
    )


async def refused(endpoint: Any, call: Any) -> tuple[int, str]:
    with pytest.raises(Refused) as found:
        await endpoint(*call)
    return found.value.status, found.value.message


async def test_register_and_log_in(page: LibreChatAuth, call: Call, services: Services) -> None:
    first = await page.register(*call(FORM))
    again = await page.register(
        *call({**FORM, "password": "Other-Horse-9", "confirm_password": "Other-Horse-9"})
    )
    assert (first.status, first.body) == (again.status, again.body)
    assert value(first) == {"message": "Please check your email to verify your email address."}

    reply = await page.login(*call(LOGIN))
    shape = value(reply)
    assert set(shape) == {"token", "user"}
    assert (shape["user"]["_id"], shape["user"]["id"]) == (LIBRECHAT_ID, LIBRECHAT_ID)
    assert shape["user"]["name"] == "Carol Browser"
    assert (shape["user"]["username"], shape["user"]["email"]) == ("carol", "carol@example.com")
    assert shape["user"]["favorites"] == []
    identity = services.tokens.verify(shape["token"], time())
    assert await services.sessions.is_active(identity.tenant_id, identity.session_id)
    assert "HttpOnly; SameSite=Strict" in reply.headers["Set-Cookie"]


async def test_wrong_credentials(page: LibreChatAuth, call: Call) -> None:
    await page.register(*call(FORM))
    wrong = {"email": "carol@example.com", "password": "wrong-password"}
    unknown = {"email": "dave@example.com", "password": "wrong-password"}
    assert await refused(page.login, call(wrong)) == (404, "Incorrect password.")
    assert await refused(page.login, call(unknown)) == (404, "Incorrect password.")
    assert await refused(page.login, call({"email": "nope", "password": PASSWORD})) == (
        404,
        "email: Invalid email",
    )
    await refused(page.login, call(wrong))
    await refused(page.login, call(wrong))
    status, message = await refused(page.login, call(LOGIN))
    assert (status, message) == (429, "Too many login attempts, please try again after 5 minutes.")


@pytest.mark.parametrize("body", [b"xx", b"null", b'"x"', b""])
async def test_broken_json_in_librechats_words(page: LibreChatAuth, call: Call, body: bytes) -> None:
    with pytest.raises(Refused) as found:
        await page.login(*call(body))
    assert found.value.status == 400
    assert found.value.librechat == {
        "error": "Invalid JSON format",
        "message": "The request body contains malformed JSON",
    }


async def test_registration_that_is_refused(
    page: LibreChatAuth, without_registration: Services, call: Call
) -> None:
    status, message = await refused(page.register, call({**FORM, "confirm_password": "Other-Horse-9"}))
    assert (status, message) == (404, ": The passwords did not match")
    status, message = await refused(page.register, call({**FORM, "name": "a\x00b"}))
    assert (status, message) == (404, "name: Must not contain control characters.")
    closed = LibreChatAuth(without_registration, SignIns(without_registration, LoginLimits()))
    assert (await refused(closed.register, call(FORM)))[0] == 403


async def test_refresh(page: LibreChatAuth, call: Call, librechat: FakeLibreChat) -> None:
    await page.register(*call(FORM))
    token = cookie(await page.login(*call(LOGIN)))
    reply = await page.refresh(*call(cookies={"__Host-geko_refresh": token}))
    assert set(value(reply)) == {"token", "user"}
    assert cookie(reply) not in ("", token)
    assert librechat.asked == 1  # kept for a while


async def test_a_session_that_is_over_is_never_an_error(page: LibreChatAuth, call: Call) -> None:
    assert is_session_over(await page.refresh(*call()))
    await page.register(*call(FORM))
    token = cookie(await page.login(*call(LOGIN)))
    foreign = call(cookies={"__Host-geko_refresh": token}, headers={"Origin": "https://evil.example"})
    assert is_session_over(await page.refresh(*foreign))
    newer = cookie(await page.refresh(*call(cookies={"__Host-geko_refresh": token})))
    for used in (token, newer, "nonsense"):  # the first is reused, which ends the session of the second
        reply = await page.refresh(*call(cookies={"__Host-geko_refresh": used}))
        assert is_session_over(reply)
        assert cookie(reply) == ""


async def test_while_librechat_is_down_the_cookie_stays_good(
    page: LibreChatAuth, services: Services, call: Call, librechat: FakeLibreChat
) -> None:
    await page.register(*call(FORM))
    token = cookie(await page.login(*call(LOGIN)))
    fresh = LibreChatAuth(services, SignIns(services, LoginLimits()))  # remembers no account
    librechat.down = True
    for _ in range(2):
        with pytest.raises(UpstreamUnreachable):
            await fresh.refresh(*call(cookies={"__Host-geko_refresh": token}))
    librechat.down = False
    assert set(value(await fresh.refresh(*call(cookies={"__Host-geko_refresh": token})))) == {"token", "user"}


@pytest.mark.parametrize("how", ["bearer", "cookie"])
async def test_logout(page: LibreChatAuth, services: Services, call: Call, how: str) -> None:
    await page.register(*call(FORM))
    signed_in = await page.login(*call(LOGIN))
    token, bearer = cookie(signed_in), value(signed_in)["token"]
    if how == "bearer":
        asked = call(headers={"Authorization": f"Bearer {bearer}"})
    else:
        asked = call(cookies={"__Host-geko_refresh": token}, headers={"Authorization": "Bearer expired"})
    reply = await page.logout(*asked)
    assert (reply.status, value(reply), cookie(reply)) == (200, {"message": "Logout successful"}, "")
    identity = services.tokens.verify(bearer, time())
    assert not await services.sessions.is_active(identity.tenant_id, identity.session_id)
    assert is_session_over(await page.refresh(*call(cookies={"__Host-geko_refresh": token})))


async def test_keys(page: LibreChatAuth, call: Call) -> None:
    assert value(await page.keys(*call())) == {"expiresAt": None}
