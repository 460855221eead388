"""Changing and resetting passwords, and guessing them, against the running server."""

from __future__ import annotations

import asyncio
import contextlib
import email
import email.policy
import re
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import aiohttp
import asyncpg
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.e2e.people import PASSWORD, Answer, Person, call, login, post, register
from tests.e2e.processes import Running, geko_environment, running

NEW = "Purple-Giraffe-44"
PUBLIC_URL = "https://chat.example.org"
TRUSTED = {"GEKO_SERVER_TRUSTED_PROXIES": "127.0.0.0/8"}


class Inbox:
    """An SMTP server's handler that keeps what it is given."""

    def __init__(self) -> None:
        self.mails: list[tuple[str, str, str]] = []  # to, subject, text
        self.fail_next = 0

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.fail_next:
            self.fail_next -= 1
            return "451 try again later"
        content = envelope.content
        assert isinstance(content, bytes)
        mail = email.message_from_bytes(content, policy=email.policy.default)
        self.mails.append((envelope.rcpt_tos[0], mail["Subject"], mail.get_content()))
        return "250 OK"

    async def wait_for(self, to: str, subject: str) -> str:
        """The text of the newest such mail."""
        for _ in range(200):
            found = [text for whom, what, text in self.mails if (whom, what) == (to, subject)]
            if found:
                return found[-1]
            await asyncio.sleep(0.05)
        raise AssertionError(f"no mail {subject!r} to {to}: {self.mails}")


@pytest.fixture(scope="module")
def inbox() -> Iterator[tuple[Inbox, int]]:
    handler = Inbox()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    controller = Controller(handler, hostname="127.0.0.1", port=port)
    controller.start()
    yield handler, port
    controller.stop()


@pytest.fixture(scope="module")
def mailing(
    e2e_dsn: str, stand_in: Running, inbox: tuple[Inbox, int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A GEKO that sends mail, behind a proxy that tells the clients' addresses."""
    settings = {
        "GEKO_MAIL_TRANSPORT": "smtp",
        "GEKO_MAIL_SMTP_HOST": "127.0.0.1",
        "GEKO_MAIL_SMTP_PORT": str(inbox[1]),
        "GEKO_MAIL_SMTP_SECURITY": "none",
        "GEKO_SERVER_PUBLIC_URL": PUBLIC_URL,
        **TRUSTED,
    }
    log = tmp_path_factory.mktemp("mailing") / "log"
    with running(["geko_proxy", "serve"], geko_environment(e2e_dsn, stand_in.url, **settings), log) as server:
        yield server


@pytest.fixture
async def web(mailing: Running) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(mailing.url, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


@pytest.fixture
async def carol(web: aiohttp.ClientSession) -> Person:
    return await register(web, f"carol{uuid4().hex}@example.org", "Carol")


async def sign_in(web: aiohttp.ClientSession, address: str, password: str, **headers: str) -> Answer:
    return await post(web, "/v1/auth/login", {"email": address, "password": password}, **headers)


async def audit_actions(dsn: str, tenant_id: str) -> list[str]:
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            "select action from audit_log where tenant_id = $1 order by occurred_at", tenant_id
        )
    finally:
        await connection.close()
    return [row["action"] for row in rows]


async def test_changing_the_password(
    web: aiohttp.ClientSession, carol: Person, inbox: tuple[Inbox, int], e2e_dsn: str
) -> None:
    other = await login(web, carol.email)
    wrong = await carol.call(
        "POST", "/v1/auth/password", {"currentPassword": "Wrong-Horse-9", "newPassword": NEW}
    )
    assert (wrong.status, wrong.json["error"]["code"]) == (403, "wrong_password")
    for weak in ("short", "password1", "Carol-Carol", "aaaaaaaaaaaa", "1234567890", PASSWORD):
        refused = await carol.call(
            "POST", "/v1/auth/password", {"currentPassword": PASSWORD, "newPassword": weak}
        )
        assert refused.status == 400, weak
        assert set(refused.json["error"]["details"]) == {"newPassword"}
    done = await carol.call("POST", "/v1/auth/password", {"currentPassword": PASSWORD, "newPassword": NEW})
    assert (done.status, done.raw) == (204, b"")
    assert (await carol.call("GET", "/v1/auth/me")).status == 200
    assert (await other.call("GET", "/v1/auth/me")).status == 401
    renewed = await post(web, "/v1/auth/refresh", {"refreshToken": other.refresh_token})
    assert renewed.status == 401
    assert (await sign_in(web, carol.email, PASSWORD)).status == 401
    assert (await sign_in(web, carol.email, NEW)).status == 200
    assert "was changed" in await inbox[0].wait_for(carol.email, "Your password was changed")
    assert "password.change" in await audit_actions(e2e_dsn, carol.tenant_id)


async def reset_link(inbox: Inbox, address: str) -> tuple[str, str]:
    """Token and user id of the newest link; it leads to LibreChat's own page under GEKO's address."""
    text = await inbox.wait_for(address, "Set a new password")
    found = re.search(r"https?://\S+", text)
    assert found
    parts = urlsplit(found[0])
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == f"{PUBLIC_URL}/reset-password"
    query = parse_qs(parts.query)
    inbox.mails.clear()
    return query["token"][0], query["userId"][0]


async def test_a_link_from_a_mail(
    web: aiohttp.ClientSession, carol: Person, inbox: tuple[Inbox, int], e2e_dsn: str
) -> None:
    body = {"email": carol.email}
    known = await post(web, "/v1/auth/password/forgot", body, Host="evil.example")
    unknown = await post(web, "/v1/auth/password/forgot", {"email": f"no{carol.email}"})
    assert (known.status, known.raw) == (unknown.status, unknown.raw)
    assert known.status == 202
    first, _ = await reset_link(inbox[0], carol.email)
    await post(web, "/v1/auth/password/forgot", body)
    token, _ = await reset_link(inbox[0], carol.email)
    old = await post(web, "/v1/auth/password/reset", {"token": first, "newPassword": NEW})
    assert (old.status, old.json["error"]["code"]) == (400, "invalid_token")  # a newer link ends an older one
    weak = await post(web, "/v1/auth/password/reset", {"token": token, "newPassword": "password123"})
    assert set(weak.json["error"]["details"]) == {"newPassword"}  # and the link stays good
    answers = await asyncio.gather(
        *(post(web, "/v1/auth/password/reset", {"token": token, "newPassword": NEW}) for _ in range(4))
    )
    assert sorted(answer.status for answer in answers) == [204, 400, 400, 400]
    done = next(answer for answer in answers if answer.status == 204)
    assert "geko_refresh" not in done.headers.get("Set-Cookie", "")  # not signed in
    assert (await carol.call("GET", "/v1/auth/me")).status == 401
    assert (await sign_in(web, carol.email, PASSWORD)).status == 401
    assert (await sign_in(web, carol.email, NEW)).status == 200
    assert await inbox[0].wait_for(carol.email, "Your password was changed")
    actions = await audit_actions(e2e_dsn, carol.tenant_id)
    assert {"password.reset_request", "password.reset"} <= set(actions)


async def test_librechats_own_forms(
    web: aiohttp.ClientSession, carol: Person, inbox: tuple[Inbox, int]
) -> None:
    config = (await call(web, "GET", "/api/config")).json
    assert (config["passwordResetEnabled"], config["minPasswordLength"]) == (True, 8)
    known = await post(web, "/api/auth/requestPasswordReset", {"email": carol.email})
    unknown = await post(web, "/api/auth/requestPasswordReset", {"email": f"no{carol.email}"})
    assert (known.status, known.raw) == (unknown.status, unknown.raw)
    assert known.status == 200
    assert set(known.json) == {"message"}  # never the link
    token, user_id = await reset_link(inbox[0], carol.email)
    form = {"userId": user_id, "token": token, "password": NEW, "confirm_password": NEW}
    for wrong in (
        {"userId": carol.tenant_id},
        {"password": "password"},
        {"token": token[::-1]},
        {"token": 1},
    ):
        assert (await post(web, "/api/auth/resetPassword", {**form, **wrong})).status == 400
    done = await post(web, "/api/auth/resetPassword", form)
    assert (done.status, done.json) == (200, {"message": "Password reset was successful"})
    assert (await post(web, "/api/auth/resetPassword", form)).status == 400
    assert (await sign_in(web, carol.email, NEW)).status == 200


async def test_weak_passwords_in_librechats_form(web: aiohttp.ClientSession) -> None:
    form = {"name": "Dora Weak", "email": f"dora{uuid4().hex}@example.org"}
    for weak, word in (("password1", "tried first"), ("dora-weak-1", "name"), ("abcdefgh", "simple")):
        answer = await post(web, "/api/auth/register", {**form, "password": weak, "confirm_password": weak})
        assert answer.status == 404
        assert answer.json["message"].startswith("password: ")
        assert word in answer.json["message"]


async def test_a_mail_server_that_is_away_for_a_moment(
    web: aiohttp.ClientSession, carol: Person, inbox: tuple[Inbox, int]
) -> None:
    inbox[0].fail_next = 1
    await post(web, "/v1/auth/password/forgot", {"email": carol.email})
    await reset_link(inbox[0], carol.email)


async def test_without_mail_there_is_no_reset(client: aiohttp.ClientSession, alice: Person) -> None:
    config = (await call(client, "GET", "/api/config")).json
    assert config["passwordResetEnabled"] is False
    for path in ("/v1/auth/password/forgot", "/api/auth/requestPasswordReset"):
        assert (await post(client, path, {"email": alice.email})).status == 403


async def test_the_mail_folder_of_developers(e2e_dsn: str, stand_in: Running, log_dir: Path) -> None:
    settings = {"GEKO_MAIL_TRANSPORT": "folder", "GEKO_SERVER_HOME": str(log_dir / "home")}
    environ = geko_environment(e2e_dsn, stand_in.url, **settings)
    with running(["geko_proxy", "serve"], environ, log_dir / "log") as server:
        async with aiohttp.ClientSession(server.url) as web:
            person = await register(web, f"erin{uuid4().hex}@example.org", "Erin")
            await post(web, "/v1/auth/password/forgot", {"email": person.email})
            for _ in range(100):
                if "/reset-password?token=" in server.log_text():
                    break
                await asyncio.sleep(0.05)
    (mail,) = (log_dir / "home" / "mail").iterdir()
    assert stat.S_IMODE(mail.stat().st_mode) == 0o600
    assert "/reset-password?token=" in (log_dir / "log").read_text()


async def test_a_thousand_wrong_passwords(e2e_dsn: str, stand_in: Running, log_dir: Path) -> None:
    """Over 100 accounts and 100 addresses: slowed, logged, audited once a burst; the owner's browser still gets in."""
    settings = {**TRUSTED, "GEKO_AUTH_PASSWORD_CPU_SHARE": "0.5", "GEKO_AUTH_PASSWORD_QUEUE": "4"}
    environ = geko_environment(e2e_dsn, stand_in.url, **settings)
    with running(["geko_proxy", "serve"], environ, log_dir / "log") as server:
        async with aiohttp.ClientSession(server.url, cookie_jar=aiohttp.DummyCookieJar()) as web:
            owner = await register(web, f"frank{uuid4().hex}@example.org", "Frank")
            signed_in = await sign_in(web, owner.email, PASSWORD)
            cookies = signed_in.headers.getall("Set-Cookie")  # type: ignore[attr-defined]
            device = next(each for each in cookies if each.startswith("geko_device=")).partition(";")[0]
            answers = await asyncio.gather(
                *(
                    sign_in(
                        web,
                        owner.email if n % 100 == 0 else f"guess{n % 100}@example.org",
                        f"Wrong-Horse-{n}",
                        X_Forwarded_For=f"203.0.113.{n % 100}",
                    )
                    for n in range(1000)
                )
            )
            statuses = dict.fromkeys((401, 429, 503), 0)
            for answer in answers:
                statuses[answer.status] += 1  # nothing else may come
                if answer.status != 401:
                    assert int(answer.headers["Retry-After"]) >= 1
            assert statuses[401] < 100
            assert statuses[429] >= 400
            inside = await sign_in(web, owner.email, PASSWORD, Cookie=device)
            assert inside.status == 200
            for _ in range(100):
                if "login.slowed" in await audit_actions(e2e_dsn, owner.tenant_id):
                    break
                await asyncio.sleep(0.05)
            assert (await audit_actions(e2e_dsn, owner.tenant_id)).count("login.slowed") == 1
            slowed = server.log_text().count("slowed a sign-in")
            assert slowed == statuses[429]
    assert "Traceback" not in (log_dir / "log").read_text()


async def test_two_instances_count_together(
    e2e_dsn: str, stand_in: Running, log_dir: Path, redis_server: str
) -> None:
    settings = {**TRUSTED, "REDIS_URL": redis_server}
    environ = geko_environment(e2e_dsn, stand_in.url, **settings)
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for name in ("one", "two"):
            server = stack.enter_context(running(["geko_proxy", "serve"], environ, log_dir / name))
            clients.append(await stack.enter_async_context(aiohttp.ClientSession(server.url)))
        statuses = []
        for n in range(8):
            answer = await sign_in(
                clients[n % 2], "both@example.org", "Wrong-Horse-9", X_Forwarded_For="198.51.100.9"
            )
            statuses.append(answer.status)
    assert statuses[:5] == [401] * 5
    assert statuses[5] == 429
