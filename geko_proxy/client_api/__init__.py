"""What people's programs call: sign-in in GEKO's and in LibreChat's shapes, chat, and health."""

from __future__ import annotations

from typing import TYPE_CHECKING

from geko_proxy.client_api.auth import Auth
from geko_proxy.client_api.chat import Chat, StartChat
from geko_proxy.client_api.health import Health
from geko_proxy.client_api.jwks import Jwks
from geko_proxy.client_api.librechat_auth import LibreChatAuth
from geko_proxy.client_api.login_limits import LoginLimits
from geko_proxy.client_api.profile import Profile
from geko_proxy.client_api.profile_email import ProfileEmail
from geko_proxy.client_api.sessions import OwnSessions
from geko_proxy.client_api.sign_in import SignIns
from geko_proxy.exchange import Route
from geko_proxy.librechat import Rule
from geko_proxy.proxy import Endpoint

if TYPE_CHECKING:
    from geko_proxy.services import Services


def routes(services: Services, start_chat: StartChat) -> list[tuple[str, str, Rule, Endpoint]]:
    """The table of this folder: methods, path, rule, endpoint.

    The rows of LibreChat's own paths are the same as in `librechat.ROWS`; here they get their endpoint.
    """
    sign_ins = SignIns(services, LoginLimits())
    auth = Auth(services, sign_ins)
    page = LibreChatAuth(services, sign_ins)
    chat = Chat(services, start_chat)
    health = Health(services)
    jwks, sessions = Jwks(services), OwnSessions(services)
    profile, email = Profile(services), ProfileEmail(services)
    public, own = Route.PUBLIC, Route.OWN
    return [
        ("POST", "/v1/auth/register", Rule(public, "auth.register"), auth.register),
        ("POST", "/v1/auth/login", Rule(public, "auth.login"), auth.login),
        ("POST", "/v1/auth/refresh", Rule(public, "auth.refresh"), auth.refresh),
        ("POST", "/v1/auth/logout", Rule(public, "auth.logout"), auth.logout),
        ("GET", "/v1/auth/me", Rule(own, "auth.me"), auth.me),
        ("GET", "/v1/auth/jwks.json", Rule(public, "auth.jwks"), jwks.get),
        ("GET", "/v1/auth/sessions", Rule(own, "auth.sessions.list"), sessions.list_mine),
        ("DELETE", "/v1/auth/sessions", Rule(own, "auth.sessions.revoke_others"), sessions.revoke_others),
        ("DELETE", "/v1/auth/sessions/{sessionId}", Rule(own, "auth.sessions.revoke"), sessions.revoke),
        ("GET", "/v1/auth/profile", Rule(own, "auth.profile.get"), profile.get),
        ("PATCH", "/v1/auth/profile", Rule(own, "auth.profile.patch"), profile.patch),
        ("POST", "/v1/auth/profile/email", Rule(own, "auth.profile.email"), email.change),
        ("POST", "/v1/auth/profile/email/verify", Rule(own, "auth.profile.email.verify"), email.verify),
        ("GET", "/v1/auth/profile/email/confirm", Rule(public, "auth.profile.email.ask"), email.ask),
        ("POST", "/v1/auth/profile/email/confirm", Rule(public, "auth.profile.email.confirm"), email.confirm),
        ("POST", "/v1/chat/send", Rule(own, "chat.send"), chat.send),
        ("POST", "/api/auth/login", Rule(public, "librechat.login"), page.login),
        ("POST", "/api/auth/register", Rule(public, "librechat.register"), page.register),
        ("POST", "/api/auth/refresh", Rule(public, "librechat.refresh"), page.refresh),
        ("POST", "/api/auth/logout", Rule(public, "librechat.logout"), page.logout),
        ("GET", "/api/balance", Rule(own, "librechat.balance"), page.balance),
        ("GET", "/api/keys", Rule(own, "librechat.keys"), page.keys),
        ("GET", "/health", Rule(public, "health"), health.health),
        ("GET", "/healthz", Rule(public, "healthz"), health.alive),
        ("GET", "/readyz", Rule(public, "readyz"), health.ready),
    ]
