"""Sign-in by identity providers against the running server and a real provider: what works, what attackers try."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Iterator
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import aiohttp
import pyotp
import pytest

from tests.conftest import run
from tests.e2e.people import PASSWORD, Answer, Person, call, login, post, register
from tests.e2e.processes import Running, geko_environment, running
from tests.oidc_provider import CLIENT_ID, ProviderState, oauth_toml, running_provider

PUBLIC = "https://chat.test"
numbers = itertools.count(1)


@pytest.fixture(scope="session")
def provider_server() -> Iterator[ProviderState]:
    with running_provider() as state:
        yield state


@pytest.fixture
def provider(provider_server: ProviderState) -> ProviderState:
    """The provider, with somebody new who is signed in there."""
    provider_server.reset()
    number = f"{os.getpid()}{next(numbers):04}"
    provider_server.person = {
        "sub": f"sub-{number}",
        "email": f"pat{number}@acme.test",
        "email_verified": True,
        "name": "Pat Doe",
    }
    return provider_server


@pytest.fixture(scope="session")
def geko(
    e2e_dsn: str, stand_in: Running, provider_server: ProviderState, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A GEKO with three providers: all let people register but "acme", which wants acme.test's people only."""
    folder = tmp_path_factory.mktemp("oauth")
    config = folder / "geko.toml"
    config.write_text(
        f'version = 1\n[server]\npublic_url = "{PUBLIC}"\n'
        + oauth_toml(
            provider_server,
            google={"allow_registration": True},
            github={"allow_registration": True},
            acme={"allowed_domains": ["acme.test"]},
        )
    )
    environ = geko_environment(e2e_dsn, stand_in.url)
    with running(["geko_proxy", "--config", str(config), "serve"], environ, folder / "log") as server:
        yield server


@pytest.fixture
async def client(geko: Running) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(geko.url, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


class Browser:
    """Cookies by name, redirects followed by hand; https://chat.test is the GEKO under test."""

    def __init__(self, client: aiohttp.ClientSession) -> None:
        self.client = client
        self.cookies: dict[str, str] = {}
        self.set_cookie: list[str] = []

    async def get(self, url: str, **headers: str) -> Answer:
        """One request; the reply's cookies are kept."""
        ours = not url.startswith("http") or url.startswith(PUBLIC)
        sent = dict(headers)
        if ours and self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        async with self.client.get(url.removeprefix(PUBLIC), headers=sent, allow_redirects=False) as reply:
            answer = Answer(reply.status, reply.headers.copy(), await reply.read())
            self.keep(reply.headers.getall("Set-Cookie", []) if ours else [])
        return answer

    def keep(self, set_cookie: list[str]) -> None:
        """Store what a reply sets, drop what it clears."""
        self.set_cookie = set_cookie
        for each in set_cookie:
            for name, morsel in SimpleCookie(each).items():
                gone = morsel["max-age"] == "0" or morsel["expires"].startswith("Thu, 01 Jan 1970")
                self.cookies.pop(name, None) if gone else self.cookies.update({name: morsel.value})

    async def to_provider(self, start: str = "/v1/auth/oauth/google") -> str:
        """Begin; the address with which the provider sends the browser back."""
        began = await self.get(start)
        assert began.status == 303, began
        answered = await self.get(began.headers["Location"])
        assert answered.status == 302, answered
        return answered.headers["Location"]

    async def sign_in(self, start: str = "/v1/auth/oauth/google") -> str:
        """The whole way; where it ends."""
        return await self.back(await self.to_provider(start))

    async def back(self, callback: str) -> str:
        """Come back from the provider; where GEKO sends the browser."""
        answer = await self.get(callback)
        assert answer.status == 303, answer
        return answer.headers["Location"]

    async def me(self) -> dict[str, Any]:
        """Who LibreChat's page says is signed in, by the refresh cookie."""
        cookie = f"__Host-geko_refresh={self.cookies['__Host-geko_refresh']}"
        answer = await post(self.client, "/api/auth/refresh", {}, Cookie=cookie, Origin=PUBLIC)
        found: dict[str, Any] = answer.json["user"]
        return found


@pytest.fixture
def browser(client: aiohttp.ClientSession) -> Browser:
    return Browser(client)


def code_of(location: str) -> str:
    """The failure that a browser is told about."""
    parts = urlsplit(location)
    assert parts.path == "/v1/auth/oauth/error", location
    return parse_qs(parts.query)["code"][0]


def with_query(url: str, **changes: str | None) -> str:
    """The address with other parameters; None takes one out."""
    parts = urlsplit(url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()} | changes
    return parts._replace(query=urlencode({k: v for k, v in query.items() if v is not None})).geturl()


@pytest.mark.parametrize(
    "start",
    [
        "/v1/auth/oauth/google",
        "/v1/auth/oauth/github",
        "/oauth/google",
        "/oauth/github",
    ],
)
async def test_somebody_new_registers_and_comes_back(
    browser: Browser, provider: ProviderState, start: str
) -> None:
    assert provider.person is not None
    email = provider.person["email"]
    assert await browser.sign_in(start) == "/"
    first = await browser.me()
    assert (first["email"], first["name"]) == (email, "Pat Doe")
    # with a changed address: the subject counts, and the account keeps its own address
    provider.person |= {"email": f"new-{email}"}
    again = Browser(browser.client)
    assert await again.sign_in(start) == "/"
    second = await again.me()
    assert (second["id"], second["email"]) == (first["id"], email)


async def test_the_cookies_are_bound_to_the_host_and_out_of_reach(
    browser: Browser, provider: ProviderState
) -> None:
    callback = await browser.to_provider("/v1/auth/oauth/google?redirect_to=%2Fc%2Fnew%3Fa%3Db")
    began = Browser(browser.client)
    await began.get("/v1/auth/oauth/google")
    (flow,) = began.set_cookie
    attributes = flow.partition(";")[2]
    assert flow.startswith("__Host-geko_oauth_google=")
    assert {each.strip() for each in attributes.split(";")} == {
        "Path=/", "Max-Age=600", "HttpOnly", "SameSite=Lax", "Secure",
    }  # fmt: skip
    for secret in ("state", "nonce", "verifier", "google"):
        assert secret not in flow.partition("=")[2].partition(";")[0]
    assert await browser.back(callback) == "/c/new?a=b"
    refresh, cleared = browser.set_cookie
    assert "SameSite=Strict" in refresh
    assert "HttpOnly" in refresh
    assert cleared.startswith("__Host-geko_oauth_google=;")
    assert list(browser.cookies) == ["__Host-geko_refresh"]


async def test_the_request_to_the_provider(browser: Browser, provider: ProviderState) -> None:
    began = await browser.get("/v1/auth/oauth/acme", Host="evil.test")
    query = parse_qs(urlsplit(began.headers["Location"]).query)
    assert query["redirect_uri"] == [f"{PUBLIC}/v1/auth/oauth/acme/callback"]
    assert query["code_challenge_method"] == ["S256"]
    assert query["scope"] == ["openid email profile"]
    assert query["client_id"] == [CLIENT_ID]
    assert {len(query[name][0]) for name in ("state", "nonce", "code_challenge")} == {43}
    assert began.headers["Cache-Control"] == "no-store"


async def test_an_account_is_never_linked_by_its_address_alone(
    browser: Browser, provider: ProviderState, client: aiohttp.ClientSession
) -> None:
    assert provider.person is not None
    owner = await register(client, provider.person["email"], "Pat")
    location = await browser.sign_in()
    assert code_of(location) == "email_in_use"
    assert "__Host-geko_refresh" not in browser.cookies
    page = (await browser.get(location)).raw.decode()
    assert "link Google to it in your profile" in page
    # linking by whoever signed in with the password, and then the provider is enough
    assert await link(owner, browser, "google") == "/"
    assert await Browser(client).sign_in() == "/"
    links = (await owner.call("GET", "/v1/auth/oauth/links")).json["links"]
    assert [(each["provider"], each["email"]) for each in links] == [("google", owner.email)]


async def link(owner: Person, browser: Browser, name: str, **body: Any) -> str:
    """Link a provider to somebody's account; where it ends."""
    async with browser.client.post(
        f"/v1/auth/oauth/{name}/link", json=body, headers={"Authorization": f"Bearer {owner.token}"}
    ) as reply:
        assert reply.status == 200, await reply.text()
        browser.keep(reply.headers.getall("Set-Cookie"))
        url = (await reply.json())["authorizationUrl"]
    return await browser.back((await browser.get(url)).headers["Location"])


async def test_unlinking_never_takes_the_last_way_to_sign_in(
    browser: Browser, provider: ProviderState, client: aiohttp.ClientSession
) -> None:
    await browser.sign_in()
    cookie = f"__Host-geko_refresh={browser.cookies['__Host-geko_refresh']}"
    renewed = (await post(client, "/v1/auth/refresh", {}, Cookie=cookie, Origin=PUBLIC)).json
    owner = Person(client, "", renewed["accessToken"], "", "", "")
    refused = await owner.call("DELETE", "/v1/auth/oauth/google")
    assert (refused.status, refused.json["error"]["code"]) == (409, "last_sign_in")
    assert await link(owner, Browser(client), "github", redirectTo="/c/new") == "/c/new"
    answers = await asyncio.gather(
        *(owner.call("DELETE", f"/v1/auth/oauth/{name}") for name in ("google", "github"))
    )
    assert sorted(each.status for each in answers) == [204, 409]
    assert (await owner.call("DELETE", "/v1/auth/oauth/acme")).status == 404


async def test_what_librechats_page_is_told(client: aiohttp.ClientSession, alice: Person) -> None:
    anonymous = (await call(client, "GET", "/api/config")).json
    for config in (anonymous, (await alice.call("GET", "/api/config")).json):
        enabled = {name for name, value in config.items() if name.endswith("LoginEnabled") and value}
        assert enabled == {
            "googleLoginEnabled", "githubLoginEnabled", "openidLoginEnabled", "socialLoginEnabled",
            "emailLoginEnabled",
        }  # fmt: skip
        assert config["socialLogins"] == ["google", "github", "openid"]
        assert (config["openidLabel"], config["openidAutoRedirect"]) == ("Continue with Acme SSO", False)
        assert config["serverDomain"] == PUBLIC
    listed = (await call(client, "GET", "/v1/auth/oauth")).json["providers"]
    assert [each["name"] for each in listed] == ["google", "github", "acme"]
    assert "secret" not in str(listed)


@pytest.mark.parametrize("path", ["/oauth/facebook", "/oauth/google/callback", "/v1/auth/oauth/none"])
async def test_what_is_not_configured_is_not_there(client: aiohttp.ClientSession, path: str) -> None:
    assert (await call(client, "GET", path)).status == 404


async def test_a_state_counts_once(browser: Browser, provider: ProviderState) -> None:
    callback = await browser.to_provider()
    kept = dict(browser.cookies)
    assert await browser.back(callback) == "/"
    replay = Browser(browser.client)
    replay.cookies = kept
    assert code_of(await replay.back(callback)) == "expired"
    # nor at the same time, when both still hold the cookie
    callback = await replay.to_provider()
    both = [Browser(browser.client) for _ in range(2)]
    for each in both:
        each.cookies = dict(replay.cookies)
    ends = await asyncio.gather(*(each.back(callback) for each in both))
    assert sorted(end == "/" for end in ends) == [False, True]


async def test_a_stolen_callback_is_worthless_elsewhere(browser: Browser, provider: ProviderState) -> None:
    callback = await browser.to_provider()
    nobody, other = Browser(browser.client), Browser(browser.client)
    await other.to_provider()
    for thief in (nobody, other):
        assert code_of(await thief.back(callback)) == "expired"
        assert "__Host-geko_refresh" not in thief.cookies
    assert list(other.cookies) == ["__Host-geko_oauth_google"]  # whose own flow goes on
    assert await browser.back(callback) == "/"  # the owner's flow was not used up by them


async def test_planted_cookies(browser: Browser, provider: ProviderState) -> None:
    callback = await browser.to_provider()
    name = "__Host-geko_oauth_google"
    attacker = Browser(browser.client)
    theirs = await attacker.to_provider()
    for planted in (
        f"{name}={attacker.cookies[name]}; {name}={browser.cookies[name]}",  # tossed beside the real one
        f"geko_oauth_google={browser.cookies[name]}",  # without the prefix that sub-domains can't set
        f"{name}={browser.cookies[name][:-8]}AAAAAAA=",
        f"{name}=",
        f"{name}={'A' * 5000}",
        f"{name}=;;;=\x22",
    ):
        answer = await Browser(browser.client).get(callback, Cookie=planted)
        assert code_of(answer.headers["Location"]) == "expired", planted
    assert await attacker.back(theirs) == "/"


async def test_a_flow_of_one_provider_is_none_of_anothers(browser: Browser, provider: ProviderState) -> None:
    callback = await browser.to_provider("/v1/auth/oauth/google")
    moved = callback.replace("/google/", "/acme/")
    assert code_of(await browser.back(moved)) == "expired"
    browser.cookies["__Host-geko_oauth_acme"] = browser.cookies["__Host-geko_oauth_google"]
    assert code_of(await browser.back(moved)) == "expired"
    assert code_of(await browser.back(with_query(callback, iss="https://evil.test"))) == "untrusted_reply"


async def test_an_announced_issuer_must_be_there(browser: Browser, provider: ProviderState) -> None:
    provider.callback = {"iss": provider.url}
    assert await browser.sign_in() == "/"
    callback = await browser.to_provider("/v1/auth/oauth/github")
    assert code_of(await browser.back(callback)) == "untrusted_reply"  # the OpenID issuer, not GitHub's


@pytest.mark.parametrize(
    "change",
    [
        {"state": "x"},
        {"state": None},
        {"state": "\u00e9"},
        {"code": None},
        {"code": "made-up"},
        {"code": "x" * 9000},
    ],
)
async def test_changed_callbacks(
    browser: Browser, provider: ProviderState, change: dict[str, str | None]
) -> None:
    callback = await browser.to_provider()
    answer = await browser.get(with_query(callback, **change))
    assert answer.status in (303, 400), answer
    if answer.status == 303:
        assert code_of(answer.headers["Location"]) in ("expired", "provider_error", "provider_refused")
    assert "__Host-geko_refresh" not in browser.cookies


async def test_a_parameter_that_is_there_twice(browser: Browser, provider: ProviderState) -> None:
    callback = await browser.to_provider()
    assert code_of(await browser.back(callback + "&code=other")) == "provider_error"


async def test_a_look_at_the_callback_does_not_use_it_up(browser: Browser, provider: ProviderState) -> None:
    callback = await browser.to_provider()
    sent = {"Cookie": f"__Host-geko_oauth_google={browser.cookies['__Host-geko_oauth_google']}"}
    looked = await call(browser.client, "HEAD", callback.removeprefix(PUBLIC), headers=sent)
    assert looked.status == 405
    assert await browser.back(callback) == "/"


async def test_a_cancelled_sign_in_ends_on_librechats_page(browser: Browser, provider: ProviderState) -> None:
    provider.person = None
    assert await browser.sign_in() == "/login?redirect=false&error=auth_failed"
    assert browser.cookies == {}


async def test_a_providers_error_is_told_without_its_words(browser: Browser, provider: ProviderState) -> None:
    provider.person = None
    provider.callback = {"error": "server_error", "error_description": "<script>alert(1)</script>"}
    location = await browser.sign_in()
    assert code_of(location) == "provider_error"
    page = await browser.get(location)
    assert "Google reported an error" in page.raw.decode()
    assert b"alert" not in page.raw
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]


async def test_the_error_page_believes_nothing(client: aiohttp.ClientSession) -> None:
    hostile = urlencode({"code": "<b>", "provider": "<script>", "reference": "<i>{0}"})
    page = await call(client, "GET", f"/v1/auth/oauth/error?{hostile}")
    assert page.status == 200
    assert not any(each in page.raw for each in (b"<b>", b"<script", b"<i>"))
    assert (await call(client, "GET", "/v1/auth/oauth/error?" + "a=1&" * 50)).status in (200, 400)


@pytest.mark.parametrize(
    "target",
    [
        "//evil.test",
        "/\\evil.test",
        "/\t/evil.test",
        "/\r\nSet-Cookie: a=b",
        "https://evil.test",
        "javascript:alert(1)",
        "/..//evil.test",
        "/%2e%2e//evil.test",
        "/%5cevil.test",
        "evil.test",
        "/api/auth/logout",
        "/v1/auth/oauth/google",
        "/x?a=\\",
        "/\u2028",
        "/" + "a" * 3000,
    ],
)
async def test_open_redirects(browser: Browser, alice: Person, target: str) -> None:
    answer = await browser.get("/v1/auth/oauth/google?" + urlencode({"redirect_to": target}))
    assert (answer.status, answer.json["error"]["code"]) == (400, "invalid_request")
    assert "redirect_to" in answer.json["error"]["details"]
    assert browser.cookies == {}
    refused = await alice.call("POST", "/v1/auth/oauth/google/link", {"redirectTo": target})
    assert (refused.status, list(refused.json["error"]["details"])) == (400, ["redirectTo"])


async def test_linking_is_bound_to_the_session_that_began_it(
    browser: Browser, provider: ProviderState, alice: Person, bob: Person
) -> None:
    client = browser.client
    assert (await call(client, "POST", "/v1/auth/oauth/google/link")).status == 401
    # somebody makes the victim's browser finish the attacker's link: it has no cookie, or its own flow's
    attacker = Browser(client)
    link_url = await begin_link(alice, attacker, "google")
    callback = (await attacker.get(link_url)).headers["Location"]
    victim = Browser(client)
    assert code_of(await victim.back(callback)) == "expired"
    await victim.to_provider()
    assert code_of(await victim.back(callback)) == "expired"
    # the session ends before the browser comes back
    await alice.call("POST", "/v1/auth/logout")
    assert code_of(await attacker.back(callback)) == "session_over"
    # what is linked to one can't be linked to another
    assert await link(bob, Browser(client), "google") == "/"
    carol = await login(client, alice.email)
    assert code_of(await link(carol, Browser(client), "google")) == "already_linked"
    assert (await carol.call("GET", "/v1/auth/oauth/links")).json == {"links": []}
    assert await link(bob, Browser(client), "google") == "/"  # once more is no harm


async def begin_link(owner: Person, browser: Browser, name: str) -> str:
    """The provider's address for a link."""
    async with browser.client.post(
        f"/v1/auth/oauth/{name}/link", headers={"Authorization": f"Bearer {owner.token}"}
    ) as reply:
        browser.keep(reply.headers.getall("Set-Cookie"))
        return str((await reply.json())["authorizationUrl"])


@pytest.mark.parametrize("start", ["/v1/auth/oauth/google", "/v1/auth/oauth/github"])
@pytest.mark.parametrize("verified", [False, "yes", None])
async def test_unverified_addresses(
    browser: Browser, provider: ProviderState, start: str, verified: Any
) -> None:
    assert provider.person is not None
    provider.person["email_verified"] = verified
    assert code_of(await browser.sign_in(start)) == "email_not_verified"
    assert "__Host-geko_refresh" not in browser.cookies


async def test_domains_and_registration(browser: Browser, provider: ProviderState) -> None:
    assert provider.person is not None
    assert code_of(await browser.sign_in("/oauth/openid")) == "no_account"
    provider.person["email"] = "pat@acme.test.evil.test"
    assert code_of(await browser.sign_in("/oauth/openid")) == "domain_not_allowed"


async def test_a_suspended_tenant_is_kept_out(
    browser: Browser, provider: ProviderState, e2e_dsn: str
) -> None:
    import asyncpg

    await browser.sign_in()
    connection = await asyncpg.connect(e2e_dsn)
    tenant_id = await connection.fetchval(
        "select tenant_id from oauth_tokens where subject = $1", (provider.person or {})["sub"]
    )
    sealed = await connection.fetchval(
        "select sealed_tokens from oauth_tokens where tenant_id = $1", tenant_id
    )
    assert all(token not in sealed for token in provider.tokens)
    verified = (
        "select email_verified_at is not null and password_hash is null from users where tenant_id = $1"
    )
    assert await connection.fetchval(verified, tenant_id)
    audited = "select action from audit_log where tenant_id = $1"
    assert "oauth.register" in [row[0] for row in await connection.fetch(audited, tenant_id)]
    await connection.execute("update tenants set status = 'suspended' where tenant_id = $1", tenant_id)
    await connection.close()
    again = Browser(browser.client)
    assert code_of(await again.sign_in()) == "tenant_not_active"
    assert "__Host-geko_refresh" not in again.cookies


async def page_of(browser: Browser) -> Person:
    """Whoever is signed in in this browser, with a bearer as LibreChat's page has it."""
    cookie = f"__Host-geko_refresh={browser.cookies['__Host-geko_refresh']}"
    reply = await post(browser.client, "/v1/auth/refresh", {}, Cookie=cookie, Origin=PUBLIC)
    assert reply.status == 200, reply
    found = reply.json
    ids = found["workspace"]["id"], found["tenant"]["id"]
    return Person(browser.client, found["user"]["email"], found["accessToken"], "", *ids)


async def verify_code(browser: Browser, ticket: str, code: str) -> Answer:
    """LibreChat's page sends the code."""
    cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    body = {"tempToken": ticket, "token": code}
    return await post(browser.client, "/api/auth/2fa/verify-temp", body, Cookie=cookie, Origin=PUBLIC)


async def test_a_second_factor_is_asked_for_after_the_provider_too(
    browser: Browser, provider: ProviderState
) -> None:
    assert await browser.sign_in() == "/"
    person = await page_of(browser)
    made = await person.call("POST", "/v1/auth/totp", {})  # no password: the sign-in is new
    assert made.status == 200, made
    totp = pyotp.TOTP(made.json["secret"])
    now = int(time.time())
    assert (await person.call("POST", "/v1/auth/totp/confirm", {"code": totp.at(now - 30)})).status == 200

    thief = Browser(browser.client)  # who has the person's account at the provider
    location = await thief.sign_in()
    page, _, ticket = location.partition("?tempToken=")
    assert page == "/login/2fa"
    assert "__Host-geko_refresh" not in thief.cookies
    assert (await verify_code(thief, ticket, "000000")).status == 401
    stolen = await verify_code(Browser(browser.client), ticket, totp.at(now))  # from the address alone
    assert (stolen.status, stolen.json["message"][:4]) == (401, "This")
    assert (await verify_code(thief, ticket, totp.at(now))).status == 200

    provider.claims = {"amr": ["pwd", "mfa"]}
    asked_there = Browser(browser.client)
    assert await asked_there.sign_in() == "/"
    assert (await asked_there.me())["email"] == person.email
    provider.claims = {"amr": ["pwd"]}
    assert (await Browser(browser.client).sign_in()).startswith("/login/2fa?")


async def test_a_stolen_session_can_not_make_another_way_in(alice: Person, e2e_dsn: str) -> None:
    """Linking a provider outlives the session, and the password too."""
    link = "/v1/auth/oauth/google/link"
    assert (await alice.call("POST", link, {})).status == 200
    await run(
        e2e_dsn,
        "update sessions set created_at = created_at - interval '11 minutes' "
        f"where tenant_id = '{alice.tenant_id}'",
    )
    for path in (link, "/api/auth/2fa/enable"):
        refused = await alice.call("POST", path, {})
        assert refused.status == 403
        assert "Sign in again" in refused.raw.decode()
    wrong = await alice.call("POST", link, {"password": "Wrong-Horse-9"})
    assert (wrong.status, wrong.json["error"]["code"]) == (403, "wrong_password")
    assert (await alice.call("POST", link, {"password": PASSWORD})).status == 200


async def test_a_look_alike_of_an_address_is_no_such_address(
    browser: Browser, provider: ProviderState
) -> None:
    """In lower case the Kelvin sign is an ASCII k: a provider's mike@ with it would be somebody else's mike@."""
    assert provider.person is not None
    provider.person["email"] = f"mi\u212ae-{provider.person['email']}"
    assert code_of(await browser.sign_in()) == "no_email"
