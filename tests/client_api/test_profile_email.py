"""Changing and confirming one's e-mail address."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote, urlencode

import msgspec
import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from geko_proxy.accounts.joining import Joining
from geko_proxy.accounts.one_time_tokens import Purpose
from geko_proxy.accounts.tokens import Identity
from geko_proxy.client_api.login_limits import MAILS, LoginLimits
from geko_proxy.client_api.password_changes import PasswordChanges
from geko_proxy.client_api.profile_email import ProfileEmail
from geko_proxy.client_api.sign_in import SignIns
from geko_proxy.errors import Refused
from geko_proxy.exchange import Exchange, Reply
from geko_proxy.mail import MailError
from geko_proxy.services import Services
from geko_proxy.workspaces.auto_join import AutoJoinStore
from geko_proxy.workspaces.invitations import InvitationStore
from geko_proxy.workspaces.roles import Role
from tests.client_api.conftest import Call
from tests.conftest import Account

NEW = "New@Example.com"
GOOD = {"email": NEW, "password": "long enough"}


@dataclass
class Mailbox:
    """Keeps what is sent; broken: takes nothing."""

    mails: list[tuple[str, str, str]] = field(default_factory=list)
    broken: bool = False

    async def send(self, to: str, subject: str, text: str) -> None:
        if self.broken:
            raise MailError("broken")
        self.mails.append((to, subject, text))

    def take(self) -> dict[str, str]:
        """The texts by address; the box is empty then."""
        found = {to: text for to, _, text in self.mails}
        self.mails.clear()
        return found


def built(services: Services) -> ProfileEmail:
    limits = LoginLimits()
    return ProfileEmail(services, PasswordChanges(services, SignIns(services, limits), limits), limits)


def token_in(text: str) -> str:
    (link,) = re.findall(r"https://public\.example/v1/auth/profile/email/confirm\?token=(\S+)", text)
    return unquote(link)


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def mailing(services: Services, mailbox: Mailbox) -> Services:
    database, members = services.database, services.members
    stores = InvitationStore(database), AutoJoinStore(database)
    return replace(services, mailer=mailbox, joining=Joining(database, members, *stores, services.audit))


@pytest.fixture
def email(mailing: Services) -> ProfileEmail:
    return built(mailing)


def signed_in(call: tuple[Exchange, Any], account: Account, session_id: Any = None) -> tuple[Exchange, Any]:
    session_id = session_id or account.user_id
    place = (account.user_id, account.tenant_id, account.workspace_id)
    call[0].user = Identity(*place, Role.OWNER, session_id)
    return call


async def refused(endpoint: Any, call: Any) -> Refused:
    with pytest.raises(Refused) as found:
        await endpoint(*call)
    return found.value


async def login_of(services: Services, address: str) -> Any:
    found = await services.users.find_login(address)
    return found[0] if found else None


async def test_a_new_address_counts_when_its_link_was_opened(
    email: ProfileEmail, call: Call, account: Account, mailbox: Mailbox, mailing: Services
) -> None:
    reply = await email.change(*signed_in(call(GOOD), account))
    assert reply.status == 202
    mails = mailbox.take()
    assert set(mails) == {"new@example.com", account.email}
    assert "token" not in mails[account.email]
    assert await login_of(mailing, NEW) is None
    assert (await login_of(mailing, account.email)).email_verified_at is None

    token = token_in(mails["new@example.com"])
    done = await email.confirm(*call({"token": token}))
    assert msgspec.json.decode(done.body or b"") == {"email": "new@example.com", "emailVerified": True}
    assert (await login_of(mailing, NEW)).email_verified_at is not None
    assert await login_of(mailing, account.email) is None
    assert set(mailbox.take()) == {account.email}
    over = await refused(email.confirm, call({"token": token}))
    assert (over.status, over.code) == (400, "link_over")
    async with mailing.database.tenant(account.tenant_id) as scope:
        rows = await scope.fetch("select action from audit_log where tenant_id = $1 order by occurred_at")
    assert [row["action"] for row in rows] == ["profile.email.request", "profile.email.change"]


async def test_the_present_address_is_confirmed(
    email: ProfileEmail, call: Call, account: Account, mailbox: Mailbox, mailing: Services
) -> None:
    assert (await email.verify(*signed_in(call(), account))).status == 202
    token = token_in(mailbox.take()[account.email])
    await email.confirm(*call({"token": token}))
    assert (await login_of(mailing, account.email)).email_verified_at is not None
    assert mailbox.mails == []
    again = await refused(email.verify, signed_in(call(), account))
    assert (again.status, again.code) == (409, "already_verified")


async def test_only_the_newest_link_works_and_none_after_another_change(
    email: ProfileEmail, call: Call, account: Account, mailbox: Mailbox, mailing: Services
) -> None:
    tokens = []
    for address in ("one@example.com", "two@example.com"):
        await email.change(*signed_in(call({**GOOD, "email": address}), account))
        tokens.append(token_in(mailbox.take()[address]))
    assert (await refused(email.confirm, call({"token": tokens[0]}))).code == "link_over"
    async with mailing.database.tenant(account.tenant_id) as scope:
        await scope.execute("update users set email = 'third@example.com' where tenant_id = $1")
    assert (await refused(email.confirm, call({"token": tokens[1]}))).code == "link_over"


async def test_an_address_that_somebody_has_tells_nothing_to_who_asks(
    email: ProfileEmail, call: Call, account: Account, stranger: Account, mailbox: Mailbox
) -> None:
    free = await email.change(*signed_in(call(GOOD), account))
    mailbox.take()
    taken = await email.change(*signed_in(call({**GOOD, "email": stranger.email}), account))
    assert (taken.status, taken.body) == (free.status, free.body)
    mails = mailbox.take()
    assert set(mails) == {stranger.email, account.email}
    assert "token" not in mails[stranger.email]


async def test_an_address_taken_meanwhile(
    email: ProfileEmail, call: Call, account: Account, stranger: Account, mailbox: Mailbox, mailing: Services
) -> None:
    """Two people in two tenants want one address: the first link that is opened gets it."""
    tokens = []
    for person in (account, stranger):
        await email.change(*signed_in(call(GOOD), person))
        tokens.append(token_in(mailbox.take()["new@example.com"]))
    await email.confirm(*call({"token": tokens[0]}))
    second = await refused(email.confirm, call({"token": tokens[1]}))
    assert (second.status, second.code) == (409, "email_taken")
    assert (await login_of(mailing, NEW)).user_id == account.user_id
    assert (await login_of(mailing, stranger.email)).user_id == stranger.user_id


async def test_links_to_the_former_mailbox_end(
    email: ProfileEmail, call: Call, account: Account, mailbox: Mailbox, mailing: Services
) -> None:
    async with mailing.database.tenant(account.tenant_id) as scope:
        reset = await mailing.one_time_tokens.issue(scope, account.user_id, Purpose.RESET_PASSWORD, {}, 3600)
    await email.change(*signed_in(call(GOOD), account))
    await email.confirm(*call({"token": token_in(mailbox.take()["new@example.com"])}))
    assert await mailing.one_time_tokens.redeem(reset, Purpose.RESET_PASSWORD) is None


async def test_it_takes_the_password_and_not_many_guesses(
    email: ProfileEmail, call: Call, account: Account, mailbox: Mailbox
) -> None:
    missing = await refused(email.change, signed_in(call({"email": NEW}), account))
    assert (missing.status, set(missing.details or {})) == (400, {"password"})
    for _ in range(5):
        wrong = await refused(email.change, signed_in(call({**GOOD, "password": "guess"}), account))
        assert (wrong.status, wrong.code) == (403, "wrong_password")
    stopped = await refused(email.change, signed_in(call(GOOD), account))
    assert stopped.status == 429
    assert mailbox.mails == []


async def test_without_a_password_a_recent_sign_in_is_needed(
    email: ProfileEmail, call: Call, account: Account, mailing: Services
) -> None:
    async with mailing.database.tenant(account.tenant_id) as scope:
        await scope.execute("update users set password_hash = null where tenant_id = $1")
    place = (account.tenant_id, account.user_id, account.workspace_id)
    opened = await mailing.sessions.open(*place, None, None)
    assert (await email.change(*signed_in(call({"email": NEW}), account, opened.session_id))).status == 202
    async with mailing.database.tenant(account.tenant_id) as scope:
        await scope.execute(
            "update sessions set created_at = now() - interval '11 minutes' where tenant_id = $1"
        )
    old = await refused(email.change, signed_in(call({"email": NEW}), account, opened.session_id))
    assert (old.status, old.code) == (403, "sign_in_again")


async def test_mails_are_limited(email: ProfileEmail, call: Call, account: Account) -> None:
    for _ in range(MAILS.free):
        await email.verify(*signed_in(call(), account))
    assert (await refused(email.verify, signed_in(call(), account))).status == 429


@pytest.mark.parametrize(
    "address", ["nonsense", "a@b", "x@example.org\nBcc: y@example.org", "owner@example.org"]
)
async def test_bad_addresses(email: ProfileEmail, call: Call, account: Account, address: str) -> None:
    bad = await refused(email.change, signed_in(call({**GOOD, "email": address}), account))
    assert (bad.status, set(bad.details or {})) == (400, {"email"})


async def test_without_mail(services: Services, call: Call, account: Account) -> None:
    email = built(replace(services, mailer=None))
    for endpoint, body in ((email.change, GOOD), (email.verify, {}), (email.verify, None)):
        off = await refused(endpoint, signed_in(call(body), account))
        assert (off.status, off.code) == (503, "mail_off")


async def test_a_mail_server_that_fails(
    email: ProfileEmail, call: Call, account: Account, mailbox: Mailbox
) -> None:
    mailbox.broken = True
    failed = await refused(email.verify, signed_in(call(), account))
    assert (failed.status, failed.code) == (503, "mail_failed")


def text_of(reply: Reply) -> str:
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "script" not in reply.headers["Content-Security-Policy"]
    return (reply.body or b"").decode()


async def test_looking_at_the_page_confirms_nothing(
    email: ProfileEmail, call: Call, account: Account, mailbox: Mailbox, mailing: Services
) -> None:
    await email.verify(*signed_in(call(), account))
    token = token_in(mailbox.take()[account.email])
    for _ in range(3):  # as programs do that check mails
        exchange, request = call()
        exchange.request.query = urlencode({"token": token})
        page = text_of(await email.ask(exchange, request))
        assert f'value="{token}"' in page
    assert (await login_of(mailing, account.email)).email_verified_at is None

    form = urlencode({"token": token}).encode()
    headers = CIMultiDictProxy(CIMultiDict({"Content-Type": "application/x-www-form-urlencoded"}))
    done = await email.confirm(*call(form, headers=headers))
    assert (done.status, account.email in text_of(done)) == (200, True)
    again = await email.confirm(*call(form, headers=headers))
    assert (again.status, "used already" in text_of(again)) == (400, True)


async def test_the_page_shows_no_others_html(email: ProfileEmail, call: Call) -> None:
    exchange, request = call()
    exchange.request.query = urlencode({"token": '"><script>alert(1)</script>'})
    assert "<script" not in text_of(await email.ask(exchange, request))


@pytest.mark.parametrize(
    "body", [b"", b"token=", b"token=%ff", b"\xff", b"a=1&" * 50, b"token=" + b"x" * 200]
)
async def test_forms_that_confirm_nothing(email: ProfileEmail, call: Call, body: bytes) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    assert (await email.confirm(*call(body, headers=headers))).status == 400
