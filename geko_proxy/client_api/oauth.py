"""/v1/auth/oauth: sign-in by identity providers (authorization code with PKCE), and linking them to an account."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import parse_qsl

from aiohttp import web
from msgspec import Meta

from geko_proxy.accounts.oauth_accounts import LastSignIn
from geko_proxy.client_api import oauth_pages
from geko_proxy.client_api.cookies import RefreshCookies
from geko_proxy.client_api.librechat_auth import CODE_COOKIE, CODE_LIFE_S
from geko_proxy.client_api.oauth_cookies import FlowCookies
from geko_proxy.client_api.oauth_people import OAuthPeople
from geko_proxy.client_api.password_changes import PasswordChanges
from geko_proxy.client_api.profile import active_user
from geko_proxy.client_api.proofs import Proofs
from geko_proxy.client_api.redirects import local_page
from geko_proxy.client_api.sign_in import CodeWanted, SignIns
from geko_proxy.client_api.validation import Body, parse
from geko_proxy.errors import Refused, StoreError
from geko_proxy.exchange import Exchange, Reply
from geko_proxy.oauth.errors import OAuthFailed
from geko_proxy.oauth.flows import Flow, Flows, Linker
from geko_proxy.oauth.providers import Provider

if TYPE_CHECKING:
    from geko_proxy.services import Services

log = logging.getLogger("geko.oauth")

MAX_CODE: Final = 8192
CODE_PAGE: Final = "/login/2fa"
KINDS_OF_LIBRECHAT: Final = {"google": "google", "github": "github", "openid": "oidc"}


class LinkBody(Body, frozen=True):
    """POST /v1/auth/oauth/{provider}/link. redirectTo: the page that is shown afterwards.

    password: needed when the sign-in is more than ten minutes old.
    """

    redirect_to: str | None = None
    password: Annotated[str, Meta(min_length=1, max_length=1024)] | None = None


@dataclass(frozen=True, slots=True)
class Comeback:
    """What stands in the address with which the provider sends the browser back (RFC 6749, 4.1.2; RFC 9207)."""

    state: str | None = None
    code: str | None = None
    error: str | None = None
    iss: str | None = None


class OAuth:
    """The endpoints of /v1/auth/oauth, and the addresses of LibreChat's own buttons.

    After the callback the refresh cookie is there although it is SameSite=Strict: browsers store such cookies from a
    top-level navigation that another site began (RFC 6265bis, 5.7), they only do not send them with one. The page
    that is then loaded needs none; its script fetches /api/auth/refresh from the same site, and gets it sent along.
    """

    def __init__(self, services: Services, sign_ins: SignIns, passwords: PasswordChanges) -> None:
        self._services = services
        self._proofs = Proofs(services, passwords)
        self._providers = services.oauth_providers
        self._flows = Flows(services.sealer)
        self._people = OAuthPeople(services, sign_ins)
        self._cookies = FlowCookies(services.settings.server)
        self._refresh_cookies = RefreshCookies(services.settings.server)

    async def providers(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200: every provider, for a sign-in page of one's own."""
        listed = [
            {
                "name": each.settings.name,
                "kind": each.settings.kind,
                "displayName": each.settings.display_name,
                "signInPath": f"/v1/auth/oauth/{each.settings.name}",
            }
            for each in self._providers
        ]
        return Reply.of_json(200, {"providers": listed})

    async def start(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """303 to the provider. `redirect_to` in the query: the page that is shown afterwards."""
        provider = self._provider(exchange.params["provider"])
        given = query_of(exchange).get("redirect_to")
        return await self._start(exchange, provider, local_page(given, "redirect_to"))

    async def start_from_librechat(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """The same for LibreChat's buttons: /oauth/google, /oauth/github, /oauth/openid."""
        kind = KINDS_OF_LIBRECHAT[exchange.request.path.rpartition("/")[2].lower()]
        provider = self._providers.first(kind)
        if provider is None:
            raise Refused(404, "not_found", "Endpoint not found")
        return await self._start(exchange, provider, local_page(None))

    async def callback(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """303 to the page, signed in or linked; or to a page that says what went wrong."""
        if exchange.request.method != "GET":  # a HEAD would use the state up
            raise Refused(405, "method_not_allowed", "Use GET.", headers={"Allow": "GET"})
        provider = self._provider(exchange.params["provider"])
        flow = None
        try:
            came = read_comeback(exchange.request.query)
            flow = await self._flow(exchange, request, provider, came.state)
            reply = await self._finish(exchange, provider, flow, came)
        except OAuthFailed as failed:
            reply = self._failed(exchange, provider, failed.code, failed.detail)
        except Refused as refused:
            code = refused.code if refused.code in oauth_pages.FAILURES else "unavailable"
            reply = self._failed(exchange, provider, code, refused.message)
        except StoreError as error:
            reply = self._failed(exchange, provider, "unavailable", str(error))
        if flow is not None:  # else another site could end a flow by sending the browser here
            self._cookies.clear(exchange, reply, provider.settings.name)
        return reply

    async def error_page(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200: a page that says why a sign-in failed."""
        given = query_of(exchange)
        provider = self._providers.get(given.get("provider", ""))
        name = provider.settings.display_name if provider is not None else "the provider"
        return oauth_pages.error_page(given.get("code", ""), name, given.get("reference", ""))

    async def links(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200: the caller's accounts at providers."""
        identity = exchange.signed_in()
        found = await self._services.oauth_accounts.list_for_user(identity.tenant_id, identity.user_id)
        listed = [
            {
                "provider": each.provider,
                "email": each.email,
                "linkedAt": each.linked_at,
                "lastUsedAt": each.last_used_at,
            }
            for each in found
        ]
        return Reply.of_json(200, {"links": listed})

    async def link(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """200 with the address to open in this browser, which links the provider to the caller's account.

        It is a way in that outlives the session and the password: a stolen session alone must not make one.
        """
        identity = exchange.signed_in()
        body = parse(LinkBody, await exchange.request.json() if await exchange.request.read() else {})
        provider = self._provider(exchange.params["provider"])
        user = await active_user(self._services, exchange)
        await self._proofs.recent(exchange, user, body.password)
        linker = Linker(identity.tenant_id, identity.user_id, identity.session_id)
        flow = self._flows.begin(provider.settings.name, local_page(body.redirect_to), linker)
        try:
            url = await provider.authorization_url(flow, self._redirect_uri(provider))
        except OAuthFailed as failed:
            log.warning("%s: %s: %s", exchange.id, provider.settings.name, failed)
            message = oauth_pages.FAILURES[failed.code].message.format(
                provider=provider.settings.display_name
            )
            raise Refused(502, failed.code, message) from None
        reply = Reply.of_json(200, {"authorizationUrl": url})
        self._cookies.set(exchange, reply, provider.settings.name, self._flows.pack(flow))
        return reply

    async def unlink(self, exchange: Exchange, request: web.BaseRequest) -> Reply:
        """204; 404 when there is no such link, 409 when it is the last way to sign in."""
        identity = exchange.signed_in()
        name, user_id = exchange.params["provider"], identity.user_id
        try:
            async with self._services.database.tenant(identity.tenant_id) as scope:
                link = await self._services.oauth_accounts.unlink(scope, user_id, name)
                if link is None:
                    raise Refused(404, "not_linked", "No account of this provider is linked.")
                details = {"issuer": link.issuer, "subject": link.subject, "email": link.email}
                await self._people.record(scope, exchange, user_id, "oauth.unlink", name, details)
            await self._people.tell(identity.tenant_id, user_id, name, "no longer signs you in")
        except LastSignIn:
            message = "This is your last way to sign in. Set a password or link another provider first."
            raise Refused(409, "last_sign_in", message) from None
        return Reply(204)

    async def _start(self, exchange: Exchange, provider: Provider, redirect_to: str) -> Reply:
        flow = self._flows.begin(provider.settings.name, redirect_to)
        try:
            url = await provider.authorization_url(flow, self._redirect_uri(provider))
        except OAuthFailed as failed:
            return self._failed(exchange, provider, failed.code, failed.detail)
        reply = oauth_pages.redirect(url)
        self._cookies.set(exchange, reply, provider.settings.name, self._flows.pack(flow))
        return reply

    async def _finish(self, exchange: Exchange, provider: Provider, flow: Flow, came: Comeback) -> Reply:
        await provider.check_issuer(came.iss)
        if came.error is not None:
            code = "cancelled" if came.error == "access_denied" else "provider_error"
            raise OAuthFailed(code, f"error {came.error!r:.80}")
        if came.code is None:
            raise OAuthFailed("provider_error", "neither a code nor an error")
        person = await provider.person(flow, came.code, self._redirect_uri(provider))
        reply = oauth_pages.redirect(flow.redirect_to)
        if flow.linker is not None:
            await self._people.link(exchange, provider, person, flow.linker)
            return reply
        nonce = secrets.token_urlsafe(24)
        signed_in = await self._people.sign_in(exchange, provider, person, bound_to=f"cookie {nonce}")
        if isinstance(signed_in, CodeWanted):  # LibreChat's page asks for it
            reply = oauth_pages.redirect(f"{CODE_PAGE}?tempToken={signed_in.ticket}")
            self._refresh_cookies.add(exchange, reply, CODE_COOKIE, nonce, f"Max-Age={CODE_LIFE_S}")
            return reply
        self._refresh_cookies.set(exchange, reply, signed_in.refresh_token, signed_in.refresh_expires_at)
        return reply

    async def _flow(
        self, exchange: Exchange, request: web.BaseRequest, provider: Provider, state: str | None
    ) -> Flow:
        """The flow that this browser began, used up with this. Raises OAuthFailed "expired"."""
        name = provider.settings.name
        cookie = self._cookies.read(exchange, request, name)
        flow = self._flows.unpack(name, cookie) if cookie is not None else None
        if flow is None:
            raise OAuthFailed("expired", "no flow of this browser")
        if not flow.answers(state):
            raise OAuthFailed("expired", "the state is not that of this browser")
        if not await self._services.oauth_accounts.use_state(flow.state, flow.expires_at):
            raise OAuthFailed("expired", "the state was used before")
        return flow

    def _failed(self, exchange: Exchange, provider: Provider, code: str, detail: str) -> Reply:
        log.warning("%s: %s: %s: %s", exchange.id, provider.settings.name, code, printable(detail))
        return oauth_pages.redirect(oauth_pages.failure_location(code, provider.settings.name, exchange.id))

    def _provider(self, name: str) -> Provider:
        provider = self._providers.get(name)
        if provider is None:
            raise Refused(404, "provider_not_found", "There is no such identity provider.")
        return provider

    def _redirect_uri(self, provider: Provider) -> str:
        # never from the Host header: whoever chose that would choose where codes go
        return f"{self._services.settings.server.public_url}/v1/auth/oauth/{provider.settings.name}/callback"


def query_of(exchange: Exchange) -> dict[str, str]:
    """The parameters of the address. Raises Refused 400 when there are too many."""
    try:
        return dict(parse_qsl(exchange.request.query, max_num_fields=20))
    except ValueError:
        raise Refused(400, "invalid_request", "The address has too many parameters.") from None


def read_comeback(query: str) -> Comeback:
    """The parameters of a callback. Raises OAuthFailed for what RFC 6749, 3.1 forbids: one that is there twice."""
    try:
        pairs = parse_qsl(query, max_num_fields=30)
    except ValueError:
        raise OAuthFailed("provider_error", "the query has too many fields") from None
    found: dict[str, str] = {}
    for key, value in pairs:
        if key not in Comeback.__dataclass_fields__:
            continue
        if key in found or len(value) > MAX_CODE:
            raise OAuthFailed("provider_error", f"{key} is there twice or too long")
        found[key] = value
    return Comeback(**found)


def printable(text: str) -> str:
    """What others sent, on one line of the log."""
    return "".join(each if each.isprintable() else "?" for each in text[:500])
