"""What people's programs call: sign-in in GEKO's and in LibreChat's shapes, chat, and health."""

from __future__ import annotations

from typing import TYPE_CHECKING

from geko_proxy.client_api.auth import Auth, CodeBody, LoginBody, RefreshBody, RegisterBody, SwitchBody
from geko_proxy.client_api.balance import Balance
from geko_proxy.client_api.chat import Chat, StartChat
from geko_proxy.client_api.chat_message import SendBody
from geko_proxy.client_api.health import Health
from geko_proxy.client_api.invitations import AcceptBody, AcceptedReply, Invited, OfferReply
from geko_proxy.client_api.jwks import Jwks
from geko_proxy.client_api.librechat_auth import LibreChatAuth
from geko_proxy.client_api.login_limits import LoginLimits
from geko_proxy.client_api.oauth import LinkBody, OAuth
from geko_proxy.client_api.password_changes import PasswordChanges
from geko_proxy.client_api.passwords import ForgotBody, PasswordChangeBody, Passwords, ResetBody
from geko_proxy.client_api.profile import Profile, ProfileBody
from geko_proxy.client_api.profile_email import ConfirmEmailBody, EmailBody, ProfileEmail, VerifyEmailBody
from geko_proxy.client_api.proofs import Proofs
from geko_proxy.client_api.rules import for_all, own
from geko_proxy.client_api.second_factor import (
    LibreChatSecondFactor,
    SecondFactor,
    TotpConfirmBody,
    TotpEnrolBody,
    TotpProofBody,
)
from geko_proxy.client_api.second_factor_changes import SecondFactorChanges
from geko_proxy.client_api.sessions import OwnSessions
from geko_proxy.client_api.shapes import MeReply, TokensReply
from geko_proxy.client_api.sign_in import SignIns
from geko_proxy.exchange import Route
from geko_proxy.librechat import Rule
from geko_proxy.proxy import Endpoint
from geko_proxy.workspaces.access import SIGNED_IN, in_own_workspace
from geko_proxy.workspaces.roles import Permission

if TYPE_CHECKING:
    from geko_proxy.services import Services

HTML = "text/html"
SWITCH_PAGE = for_all("auth.switch_page")._replace(media=(HTML,))
OFFER = for_all("invitations.get", None, OfferReply)._replace(media=("application/json", HTML))
ACCEPT = for_all("invitations.accept", AcceptBody, AcceptedReply)._replace(created=TokensReply)
MAY_CHAT = in_own_workspace(Permission.CHAT)
ANSWER = ("text/event-stream", "application/json")


def routes(services: Services, start_chat: StartChat) -> list[tuple[str, str, Rule, Endpoint]]:
    """The table of this folder: methods, path, rule, endpoint.

    The rows of LibreChat's own paths are the same as in `librechat.ROWS`; here they get their endpoint.
    """
    limits = LoginLimits(services.redis)
    sign_ins = SignIns(services, limits)
    changes = PasswordChanges(services, sign_ins, limits)
    auth = Auth(services, sign_ins)
    page = LibreChatAuth(services, sign_ins)
    invited = Invited(services, sign_ins)
    oauth = OAuth(services, sign_ins, changes)
    chat = Chat(services, start_chat)
    health = Health(services)
    public, mine = Route.PUBLIC, Route.OWN
    return [
        *_account(services, changes, limits),
        *_passwords(services, sign_ins, changes),
        *_second_factor(services, page, changes),
        (
            "POST",
            "/v1/auth/register",
            for_all("auth.register", RegisterBody, TokensReply, 201),
            auth.register,
        ),
        ("POST", "/v1/auth/login", for_all("auth.login", LoginBody, TokensReply), auth.login),
        ("POST", "/v1/auth/login/totp", for_all("auth.login_totp", CodeBody, TokensReply), auth.login_totp),
        ("POST", "/v1/auth/refresh", for_all("auth.refresh", RefreshBody, TokensReply), auth.refresh),
        ("POST", "/v1/auth/logout", for_all("auth.logout", RefreshBody, None, 204), auth.logout),
        ("GET", "/v1/auth/me", own("auth.me", SIGNED_IN, None, MeReply), auth.me),
        ("POST", "/v1/auth/switch", own("auth.switch", SIGNED_IN, SwitchBody, TokensReply), auth.switch),
        ("GET", "/v1/auth/switch", SWITCH_PAGE, auth.switch_page),
        ("GET", "/v1/invitations/{token}", OFFER, invited.get),
        ("POST", "/v1/invitations/{token}/accept", ACCEPT, invited.accept),
        ("POST", "/v1/chat/send", own("chat.send", MAY_CHAT, SendBody, media=ANSWER), chat.send),
        ("GET", "/v1/auth/oauth", for_all("oauth.providers"), oauth.providers),
        (
            "GET",
            "/v1/auth/oauth/error",
            for_all("oauth.error_page")._replace(media=(HTML,)),
            oauth.error_page,
        ),
        ("GET", "/v1/auth/oauth/links", own("oauth.links", SIGNED_IN), oauth.links),
        ("GET", "/v1/auth/oauth/{provider}", for_all("oauth.start", status=303), oauth.start),
        ("GET", "/v1/auth/oauth/{provider}/callback", for_all("oauth.callback", status=303), oauth.callback),
        ("POST", "/v1/auth/oauth/{provider}/link", own("oauth.link", SIGNED_IN, LinkBody), oauth.link),
        ("DELETE", "/v1/auth/oauth/{provider}", own("oauth.unlink", SIGNED_IN, status=204), oauth.unlink),
        ("POST", "/api/auth/login", Rule(public, "librechat.login"), page.login),
        ("POST", "/api/auth/register", Rule(public, "librechat.register"), page.register),
        ("POST", "/api/auth/refresh", Rule(public, "librechat.refresh"), page.refresh),
        ("POST", "/api/auth/logout", Rule(public, "librechat.logout"), page.logout),
        ("GET", "/oauth/google", Rule(public, "librechat.oauth"), oauth.start_from_librechat),
        ("GET", "/oauth/github", Rule(public, "librechat.oauth"), oauth.start_from_librechat),
        ("GET", "/oauth/openid", Rule(public, "librechat.oauth"), oauth.start_from_librechat),
        ("GET", "/api/balance", Rule(mine, "librechat.balance"), Balance(services).get),
        ("GET", "/api/keys", Rule(mine, "librechat.keys"), page.keys),
        ("GET", "/health", Rule(public, "health"), health.health),
        ("GET", "/healthz", Rule(public, "healthz"), health.alive),
        ("GET", "/readyz", Rule(public, "readyz"), health.ready),
    ]


def _account(
    services: Services, changes: PasswordChanges, limits: LoginLimits
) -> list[tuple[str, str, Rule, Endpoint]]:
    jwks, sessions = Jwks(services), OwnSessions(services)
    profile, email = Profile(services), ProfileEmail(services, changes, limits)
    path, every = "/v1/auth/profile", "/v1/auth/sessions"
    ask = for_all("auth.profile.email.ask")._replace(media=(HTML,))
    confirm = for_all("auth.profile.email.confirm", ConfirmEmailBody)._replace(
        media=("application/json", HTML)
    )
    change = own("auth.profile.email", SIGNED_IN, EmailBody, status=202)
    verify = own("auth.profile.email.verify", SIGNED_IN, VerifyEmailBody, status=202)
    return [
        ("GET", "/v1/auth/jwks.json", for_all("auth.jwks"), jwks.get),
        ("GET", every, own("auth.sessions.list", SIGNED_IN), sessions.list_mine),
        ("DELETE", every, own("auth.sessions.revoke_others", SIGNED_IN), sessions.revoke_others),
        (
            "DELETE",
            f"{every}/{{sessionId}}",
            own("auth.sessions.revoke", SIGNED_IN, status=204),
            sessions.revoke,
        ),
        ("GET", path, own("auth.profile.get", SIGNED_IN), profile.get),
        ("PATCH", path, own("auth.profile.patch", SIGNED_IN, ProfileBody), profile.patch),
        ("POST", f"{path}/email", change, email.change),
        ("POST", f"{path}/email/verify", verify, email.verify),
        ("GET", f"{path}/email/confirm", ask, email.ask),
        ("POST", f"{path}/email/confirm", confirm, email.confirm),
    ]


def _passwords(
    services: Services, sign_ins: SignIns, changes: PasswordChanges
) -> list[tuple[str, str, Rule, Endpoint]]:
    given = Passwords(services, sign_ins, changes)
    public = Route.PUBLIC
    forgot, reset = "librechat.forgot_password", "librechat.reset_password"
    return [
        (
            "POST",
            "/v1/auth/password",
            own("auth.password", SIGNED_IN, PasswordChangeBody, None, 204),
            given.change,
        ),
        (
            "POST",
            "/v1/auth/password/forgot",
            for_all("auth.password_forgot", ForgotBody, None, 202),
            given.forgot,
        ),
        (
            "POST",
            "/v1/auth/password/reset",
            for_all("auth.password_reset", ResetBody, None, 204),
            given.reset,
        ),
        ("POST", "/api/auth/requestPasswordReset", Rule(public, forgot), given.librechat_forgot),
        ("POST", "/api/auth/resetPassword", Rule(public, reset), given.librechat_reset),
    ]


def _second_factor(
    services: Services, page: LibreChatAuth, passwords: PasswordChanges
) -> list[tuple[str, str, Rule, Endpoint]]:
    changes, proofs = SecondFactorChanges(services), Proofs(services, passwords)
    given, dialog = SecondFactor(services, changes, proofs), LibreChatSecondFactor(services, changes, proofs)
    mine = Route.OWN
    return [
        ("GET", "/v1/auth/totp", own("auth.totp", SIGNED_IN), given.status),
        ("POST", "/v1/auth/totp", own("auth.totp_enrol", SIGNED_IN, TotpEnrolBody), given.enrol),
        (
            "DELETE",
            "/v1/auth/totp",
            own("auth.totp_disable", SIGNED_IN, TotpProofBody, None, 204),
            given.disable,
        ),
        (
            "POST",
            "/v1/auth/totp/confirm",
            own("auth.totp_confirm", SIGNED_IN, TotpConfirmBody),
            given.confirm,
        ),
        (
            "POST",
            "/v1/auth/totp/recovery-codes",
            own("auth.totp_codes", SIGNED_IN, TotpProofBody),
            given.renew_codes,
        ),
        ("POST", "/api/auth/2fa/verify-temp", Rule(Route.PUBLIC, "librechat.2fa.login"), page.verify_code),
        ("POST", "/api/auth/2fa/enable", Rule(mine, "librechat.2fa.enable"), dialog.enable),
        ("POST", "/api/auth/2fa/verify", Rule(mine, "librechat.2fa.verify"), dialog.verify),
        ("POST", "/api/auth/2fa/confirm", Rule(mine, "librechat.2fa.confirm"), dialog.confirm),
        ("POST", "/api/auth/2fa/disable", Rule(mine, "librechat.2fa.disable"), dialog.disable),
        ("POST", "/api/auth/2fa/backup/regenerate", Rule(mine, "librechat.2fa.codes"), dialog.renew_codes),
    ]
