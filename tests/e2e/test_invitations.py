"""Invitations by link and by mail, and mail domains whose people join by themselves."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Iterator
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import aiohttp
import asyncpg
import pytest

from geko_proxy.client_api.pages import fingerprint
from tests.e2e.people import PASSWORD, Answer, Person, call, invite, login, post, register
from tests.e2e.processes import Running, geko_environment, running

LINK = re.compile(r"https://chat\.example\.org/v1/invitations/([A-Za-z0-9_-]{86})")


def unique(name: str, domain: str = "example.org") -> str:
    return f"{name}{os.getpid()}n{uuid4().hex[:8]}@{domain}"


async def offer(person: Person, **body: Any) -> Answer:
    return await person.call(
        "POST", f"/v1/workspaces/{person.workspace_id}/invitations", {"role": "member", **body}
    )


async def token_of(person: Person, **body: Any) -> str:
    made = await offer(person, **body)
    assert made.status == 201, made
    return str(made.json["link"]).rpartition("/")[2]


async def accept(client: aiohttp.ClientSession, token: str, **body: Any) -> Answer:
    return await post(
        client, f"/v1/invitations/{token}/accept", {"name": "New", "password": PASSWORD, **body}
    )


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json["error"]["code"]


async def sql(dsn: str, statement: str, *args: Any) -> list[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        return list(await connection.fetch(statement, *args))
    finally:
        await connection.close()


async def test_a_link_brings_somebody_new_in(
    alice: Person, client: aiohttp.ClientSession, geko: Running
) -> None:
    made = await offer(alice, role="viewer", expiresInDays=2)
    assert made.status == 201
    assert made.json["link"].startswith(f"{geko.url}/v1/invitations/")
    token = made.json["link"].rpartition("/")[2]
    shown = await call(client, "GET", f"/v1/invitations/{token}")
    assert {name: shown.json[name] for name in ("tenant", "workspace", "invitedBy", "role", "email")} == {
        "tenant": "Alice Ltd",
        "workspace": "Default",
        "invitedBy": "Alice",
        "role": "viewer",
        "email": None,
    }
    email = unique("new")
    joined = await accept(client, token, email=email)
    assert (joined.status, joined.json["role"], joined.json["user"]["email"]) == (201, "viewer", email)
    assert joined.json["tenant"]["id"] == alice.tenant_id
    assert joined.headers["Set-Cookie"].startswith("geko_refresh=")
    again = await login(client, email)
    assert again.workspace_id == alice.workspace_id
    for answer in (
        await call(client, "GET", f"/v1/invitations/{token}"),
        await accept(client, token, email=unique("late")),
    ):
        assert code(answer) == (410, "invitation_used")
    assert token not in geko.log_text()


async def test_a_browser_gets_a_page_that_knows_nothing(alice: Person, client: aiohttp.ClientSession) -> None:
    token = await token_of(alice)
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    pages = [
        await call(client, "GET", path, headers=browser)
        for path in (f"/v1/invitations/{token}", f"/v1/invitations/{'A' * 86}", "/v1/auth/switch")
    ]
    assert pages[0].raw == pages[1].raw  # nothing of the request is in it
    for shown in pages:
        assert (shown.status, shown.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert shown.headers["Referrer-Policy"] == "no-referrer"
        policy = shown.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'sha256-")
        assert "unsafe" not in policy
        script = re.findall(rb"<script>(.*?)</script>", shown.raw, re.DOTALL)
        assert [fingerprint(text.decode()) in policy for text in script] == [True]
    assert (await call(client, "GET", f"/v1/invitations/{token}")).json["role"] == "member"


async def test_nobody_gets_more_than_was_offered(alice: Person, client: aiohttp.ClientSession) -> None:
    admin = await invite(alice, "admin", unique("admin"))
    member = await invite(alice, "member", unique("member"))
    assert code(await offer(admin, role="owner")) == (403, "forbidden")
    assert (await offer(admin, role="admin")).status == 201
    assert code(await offer(member)) == (403, "forbidden")
    token = await token_of(alice, role="viewer")
    for extra in ({"role": "owner"}, {"workspaceId": str(uuid4())}, {"tenantId": str(uuid4())}):
        assert code(await accept(client, token, email=unique("x"), **extra)) == (400, "invalid_request")
    # a member keeps the role there is: an invitation is no way up, and is not used up
    answer = await admin.call("POST", f"/v1/invitations/{token}/accept")
    assert (answer.status, answer.json["role"], answer.json["joined"]) == (200, "admin", False)
    assert (await call(client, "GET", f"/v1/invitations/{token}")).status == 200


async def test_who_may_not_invite_any_more_has_no_links_left(
    alice: Person, client: aiohttp.ClientSession
) -> None:
    admin = await invite(alice, "admin", unique("admin"))
    token = await token_of(admin)
    admin_id = (await admin.call("GET", "/v1/auth/me")).json["user"]["id"]
    path = f"/v1/workspaces/{alice.workspace_id}/members/{admin_id}"
    assert (await alice.call("PATCH", path, {"role": "member"})).status == 200
    assert code(await accept(client, token, email=unique("x"))) == (410, "invitation_revoked")
    assert (await alice.call("PATCH", path, {"role": "admin"})).status == 200
    assert (await call(client, "GET", f"/v1/invitations/{token}")).status == 200
    assert (await alice.call("DELETE", path)).status == 204
    assert code(await accept(client, token, email=unique("x"))) == (410, "invitation_revoked")


async def test_two_at_once_and_several_uses(
    alice: Person, client: aiohttp.ClientSession, e2e_dsn: str
) -> None:
    token = await token_of(alice, maxUses=2)
    emails = [unique("racer") for _ in range(5)]
    answers = await asyncio.gather(*(accept(client, token, email=email) for email in emails))
    assert sorted(answer.status for answer in answers) == [201, 201, 410, 410, 410]
    left = [email for email, answer in zip(emails, answers, strict=True) if answer.status == 410]
    # who came too late has no account, and the address is free
    assert not await sql(e2e_dsn, "select 1 from login_emails where email = any($1)", left)
    same = unique("twice")
    token = await token_of(alice, maxUses=5)
    answers = await asyncio.gather(*(accept(client, token, email=same) for _ in range(3)))
    assert sorted(answer.status for answer in answers) == [201, 409, 409]
    (listed,) = (await invitations(alice))["invitations"]
    assert (listed["uses"], listed["maxUses"], "link" in listed) == (1, 5, False)


async def invitations(person: Person) -> Any:
    return (await person.call("GET", f"/v1/workspaces/{person.workspace_id}/invitations")).json


async def test_revoked_expired_and_unknown(
    alice: Person, bob: Person, client: aiohttp.ClientSession, e2e_dsn: str
) -> None:
    made = await offer(alice)
    token, path = made.json["link"].rpartition("/")[2], f"/v1/workspaces/{{}}/invitations/{made.json['id']}"
    assert (await bob.call("DELETE", path.format(bob.workspace_id))).status == 404
    assert (await bob.call("DELETE", path.format(alice.workspace_id))).status == 404
    assert (await alice.call("DELETE", path.format(alice.workspace_id))).status == 204
    assert (await alice.call("DELETE", path.format(alice.workspace_id))).status == 404
    assert code(await accept(client, token, email=unique("x"))) == (410, "invitation_revoked")
    assert (await invitations(alice))["invitations"] == []
    made = await offer(alice)
    token = made.json["link"].rpartition("/")[2]
    await sql(e2e_dsn, "update invitations set expires_at = now() where invitation_id = $1", made.json["id"])
    assert code(await accept(client, token, email=unique("x"))) == (410, "invitation_expired")
    changed = token[:-1] + ("A" if token[-1] != "A" else "Q")
    for unknown in ("x", "A" * 86, changed, token + "A", "%00" + token):
        answer = await call(client, "GET", f"/v1/invitations/{unknown}")
        assert answer.status in (400, 404), unknown
        assert (await accept(client, unknown, email=unique("x"))).status in (400, 404)
    for body in (
        {"role": "emperor"},
        {"expiresInDays": 0},
        {"expiresInDays": 91},
        {"maxUses": 0},
        {"maxUses": 1001},
        {"email": "no address"},
        {"email": "a@example.org", "maxUses": 2},
        {"email": "a@example.org\r\nBcc: b@example.org"},
    ):
        assert code(await offer(alice, **body)) == (400, "invalid_request"), body


async def test_accounts_belong_to_one_organisation(
    alice: Person, bob: Person, client: aiohttp.ClientSession
) -> None:
    token = await token_of(alice)
    refused = await bob.call("POST", f"/v1/invitations/{token}/accept")
    assert code(refused) == (403, "other_tenant")
    assert code(await accept(client, token, email=bob.email)) == (409, "email_taken")
    bad = await call(
        client, "POST", f"/v1/invitations/{token}/accept", b"", {"Authorization": "Bearer nonsense"}
    )
    assert code(bad) == (401, "invalid_token")
    foreign = await post(client, f"/v1/invitations/{token}/accept", {}, Origin="https://evil.example")
    assert code(foreign) == (403, "foreign_origin")
    assert code(await post(client, f"/v1/invitations/{token}/accept", {})) == (400, "invalid_request")
    short = await accept(client, token, email=unique("x"), password="short")  # refused
    assert "password" in short.json["error"]["details"]
    assert (await call(client, "GET", f"/v1/invitations/{token}")).status == 200


async def test_an_invitation_for_one_address(
    alice: Person, client: aiohttp.ClientSession, e2e_dsn: str
) -> None:
    """Mail is off here: the link is handed over, so it proves nothing about the address."""
    email = unique("bound")
    made = await offer(alice, email=email.upper())
    assert (made.json["email"], made.json["mailed"]) == (email, False)
    token = made.json["link"].rpartition("/")[2]
    other = await invite(alice, "member", unique("other"))
    refused = await other.call("POST", f"/v1/invitations/{token}/accept")
    assert code(refused) == (403, "invitation_for_other_address")
    assert code(await accept(client, token, email=unique("x"))) == (403, "invitation_for_other_address")
    joined = await accept(client, token)
    assert (joined.status, joined.json["user"]["email"]) == (201, email)
    (row,) = await sql(e2e_dsn, "select email_verified_at from users where email = $1", email)
    assert row["email_verified_at"] is None


class Mailing(NamedTuple):
    """A GEKO that sends mail into a folder."""

    server: Running
    folder: Path

    def token_for(self, email: str) -> str:
        """The token in the only mail to an address."""
        until = time.monotonic() + 10  # mail is sent behind the reply
        mails: list[Any] = []
        while not mails and time.monotonic() < until:
            time.sleep(0.02)
            files = [
                message_from_bytes(file.read_bytes(), policy=policy.default)
                for file in self.folder.glob("*.eml")
            ]
            mails = [each for each in files if each["To"] == email]
        (mail,) = mails
        found = LINK.search(mail.get_content())
        assert found is not None
        return found[1]


@pytest.fixture(scope="module")
def mailing(e2e_dsn: str, stand_in: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mailing]:
    home = tmp_path_factory.mktemp("mailing")
    environ = geko_environment(
        e2e_dsn,
        stand_in.url,
        GEKO_MAIL_TRANSPORT="folder",
        GEKO_SERVER_HOME=str(home),
        GEKO_SERVER_PUBLIC_URL="https://chat.example.org",
    )
    with running(["geko_proxy", "serve"], environ, home / "log") as server:
        yield Mailing(server, home / "mail")


@pytest.fixture
async def mail_client(mailing: Mailing) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(mailing.server.url, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


async def test_a_mailed_invitation_proves_the_address(
    mailing: Mailing, mail_client: aiohttp.ClientSession, e2e_dsn: str
) -> None:
    owner = await register(mail_client, unique("owner"), "Olga")
    email = unique("mailed")
    made = await offer(owner, email=email, role="admin")
    assert (made.status, made.json["mailed"], "link" in made.json) == (201, True, False)
    joined = await accept(mail_client, mailing.token_for(email))
    assert (joined.status, joined.json["role"]) == (201, "admin")
    (row,) = await sql(e2e_dsn, "select email_verified_at from users where email = $1", email)
    assert row["email_verified_at"] is not None


async def test_people_of_a_domain_join_by_themselves(
    mailing: Mailing, mail_client: aiohttp.ClientSession, e2e_dsn: str
) -> None:
    domain = f"d{uuid4().hex[:10]}.example"
    owner = await register(mail_client, unique("owner", domain), "Olga")
    wanted = {"domains": [domain.upper()], "workspaceId": owner.workspace_id, "role": "viewer"}
    unproven = await owner.call("PUT", "/v1/tenant/auto-join", wanted)
    assert code(unproven) == (400, "invalid_request")
    verify = "update users set email_verified_at = now() where email = $1"
    await sql(e2e_dsn, verify, owner.email)
    done = await owner.call("PUT", "/v1/tenant/auto-join", wanted)
    assert (done.status, done.json["domains"], done.json["role"]) == (200, [domain], "viewer")
    assert (await owner.call("GET", "/v1/tenant/auto-join")).json == done.json
    for domains in (["gmail.com"], ["other.example"], ["no domain"], [domain, "b"]):
        answer = await owner.call("PUT", "/v1/tenant/auto-join", {**wanted, "domains": domains})
        assert code(answer) == (400, "invalid_request")
    for more in ({"role": "admin"}, {"workspaceId": None}):
        assert (await owner.call("PUT", "/v1/tenant/auto-join", {**wanted, **more})).status == 400
    rival = await register(mail_client, unique("rival", domain), "Rita")
    await sql(e2e_dsn, verify, rival.email)
    taken = await rival.call("PUT", "/v1/tenant/auto-join", {**wanted, "workspaceId": rival.workspace_id})
    assert code(taken) == (409, "domain_taken")
    # somebody of the domain who is invited into another workspace joins the common one too, once verified
    made = await owner.call("POST", "/v1/workspaces", {"name": "Second"})
    email = unique("colleague", domain)
    path = f"/v1/workspaces/{made.json['id']}/invitations"
    assert (await owner.call("POST", path, {"role": "member", "email": email})).status == 201
    joined = await accept(mail_client, mailing.token_for(email))
    assert (joined.status, joined.json["role"]) == (201, "member")
    colleague = Person(mail_client, email, joined.json["accessToken"], "", "", "")
    found = (await colleague.call("GET", "/v1/workspaces")).json["workspaces"]
    assert {(each["name"], each["role"]) for each in found} == {("Default", "viewer"), ("Second", "member")}
    off = await owner.call("PUT", "/v1/tenant/auto-join", {"domains": []})
    assert off.json == {"domains": [], "workspaceId": None, "role": None}
    again = await rival.call("PUT", "/v1/tenant/auto-join", {**wanted, "workspaceId": rival.workspace_id})
    assert again.status == 200
