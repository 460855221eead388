"""What people's programs call: sign-in in GEKO's and in LibreChat's shapes, chat, and health."""

from __future__ import annotations

from typing import TYPE_CHECKING

from geko_proxy.client_api.auth import Auth
from geko_proxy.client_api.chat import Chat, StartChat
from geko_proxy.client_api.health import Health
from geko_proxy.client_api.librechat_auth import LibreChatAuth
from geko_proxy.client_api.login_limits import LoginLimits
from geko_proxy.client_api.password_changes import PasswordChanges
from geko_proxy.client_api.passwords import Passwords
from geko_proxy.client_api.second_factor import LibreChatSecondFactor, SecondFactor
from geko_proxy.client_api.second_factor_changes import SecondFactorChanges
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
    limits = LoginLimits(services.redis)
    sign_ins = SignIns(services, limits)
    changes = PasswordChanges(services, sign_ins, limits)
    auth = Auth(services, sign_ins)
    page = LibreChatAuth(services, sign_ins)
    chat = Chat(services, start_chat)
    health = Health(services)
    public, own = Route.PUBLIC, Route.OWN
    return [
        *_passwords(services, sign_ins, changes),
        *_second_factor(services, page, changes),
        ("POST", "/v1/auth/register", Rule(public, "auth.register"), auth.register),
        ("POST", "/v1/auth/login", Rule(public, "auth.login"), auth.login),
        ("POST", "/v1/auth/login/totp", Rule(public, "auth.login_totp"), auth.login_totp),
        ("POST", "/v1/auth/refresh", Rule(public, "auth.refresh"), auth.refresh),
        ("POST", "/v1/auth/logout", Rule(public, "auth.logout"), auth.logout),
        ("GET", "/v1/auth/me", Rule(own, "auth.me"), auth.me),
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


def _passwords(
    services: Services, sign_ins: SignIns, changes: PasswordChanges
) -> list[tuple[str, str, Rule, Endpoint]]:
    given = Passwords(services, sign_ins, changes)
    public = Route.PUBLIC
    forgot, reset = "librechat.forgot_password", "librechat.reset_password"
    return [
        ("POST", "/v1/auth/password", Rule(Route.OWN, "auth.password"), given.change),
        ("POST", "/v1/auth/password/forgot", Rule(public, "auth.password_forgot"), given.forgot),
        ("POST", "/v1/auth/password/reset", Rule(public, "auth.password_reset"), given.reset),
        ("POST", "/api/auth/requestPasswordReset", Rule(public, forgot), given.librechat_forgot),
        ("POST", "/api/auth/resetPassword", Rule(public, reset), given.librechat_reset),
    ]


def _second_factor(
    services: Services, page: LibreChatAuth, passwords: PasswordChanges
) -> list[tuple[str, str, Rule, Endpoint]]:
    changes = SecondFactorChanges(services)
    given, dialog = SecondFactor(changes, passwords), LibreChatSecondFactor(services, changes)
    own = Route.OWN
    return [
        ("GET", "/v1/auth/totp", Rule(own, "auth.totp"), given.status),
        ("POST", "/v1/auth/totp", Rule(own, "auth.totp_enrol"), given.enrol),
        ("DELETE", "/v1/auth/totp", Rule(own, "auth.totp_disable"), given.disable),
        ("POST", "/v1/auth/totp/confirm", Rule(own, "auth.totp_confirm"), given.confirm),
        ("POST", "/v1/auth/totp/recovery-codes", Rule(own, "auth.totp_codes"), given.renew_codes),
        ("POST", "/api/auth/2fa/verify-temp", Rule(Route.PUBLIC, "librechat.2fa.login"), page.verify_code),
        ("POST", "/api/auth/2fa/enable", Rule(own, "librechat.2fa.enable"), dialog.enable),
        ("POST", "/api/auth/2fa/verify", Rule(own, "librechat.2fa.verify"), dialog.verify),
        ("POST", "/api/auth/2fa/confirm", Rule(own, "librechat.2fa.confirm"), dialog.confirm),
        ("POST", "/api/auth/2fa/disable", Rule(own, "librechat.2fa.disable"), dialog.disable),
        ("POST", "/api/auth/2fa/backup/regenerate", Rule(own, "librechat.2fa.codes"), dialog.renew_codes),
    ]
