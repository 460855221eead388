"""What people are told when a sign-in by a provider fails: one table, and the page that shows it.

LibreChat's sign-in page can only say "Authentication failed", so only what needs no explanation goes there.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from typing import Final, NamedTuple
from urllib.parse import urlencode

from geko_proxy.exchange import Reply

PAGE: Final = "/v1/auth/oauth/error"
SIGN_IN: Final = "/login?redirect=false"  # without going on to a provider at once
REFERENCE: Final = re.compile(r"[0-9a-f]{8,40}", re.ASCII)


class Failure(NamedTuple):
    """message: what happened and what to do; {provider} is its name. on_sign_in_page: LibreChat's own notice does."""

    message: str
    on_sign_in_page: bool = False


FAILURES: Final[dict[str, Failure]] = {
    "cancelled": Failure("The sign-in with {provider} was cancelled.", on_sign_in_page=True),
    "expired": Failure(
        "This sign-in took too long, was used already, or began in another browser or tab. Please start it again."
    ),
    "provider_error": Failure("{provider} reported an error. Please try again later."),
    "provider_unavailable": Failure("{provider} can't be reached at the moment. Please try again later."),
    "provider_refused": Failure(
        "{provider} refused the sign-in. Please try again; if it keeps failing, tell the administrator."
    ),
    "untrusted_reply": Failure(
        "The reply of {provider} failed a security check. Please start again; if it keeps failing, tell the "
        "administrator."
    ),
    "no_email": Failure("{provider} did not tell your e-mail address. Allow it to, and try again."),
    "email_not_verified": Failure(
        "{provider} has not verified your e-mail address. Verify it there, and try again."
    ),
    "domain_not_allowed": Failure(
        "Your e-mail address at {provider} is not from an organisation let in here."
    ),
    "email_in_use": Failure(
        "There is an account with your e-mail address already. Sign in to it as you did so far, then link "
        "{provider} to it in your profile. After that you can sign in with {provider}."
    ),
    "no_account": Failure(
        "There is no account with your e-mail address, and {provider} can't be used to make one here. Register "
        "or ask for an invitation first."
    ),
    "account_disabled": Failure("Your account can't be used any more. Please ask the administrator."),
    "tenant_not_active": Failure("Your organisation's access is suspended."),
    "no_workspace": Failure("You are not a member of any workspace. Please ask for an invitation."),
    "already_linked": Failure(
        "This {provider} account is linked to somebody else's account, or you have linked another one."
    ),
    "session_over": Failure("Your session ended before {provider} was linked. Sign in and link it again."),
    "too_many_attempts": Failure("Too many accounts were made from your address. Please try again later."),
    "unavailable": Failure("The sign-in does not work at the moment. Please try again later."),
}
UNKNOWN: Final = Failure("The sign-in failed. Please try again.")

STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:32rem;margin:15vh auto;padding:0 1rem;color:#222;"
    "background:#fff}a{color:#0a6b4f}small{color:#666}@media(prefers-color-scheme:dark){body{color:#eee;"
    "background:#171717}a{color:#5fd0a8}small{color:#aaa}}"
)
STYLE_HASH: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


def redirect(location: str) -> Reply:
    """Send the browser to another page with GET."""
    reply = Reply(303)
    reply.headers["Location"] = location
    reply.headers["Cache-Control"] = "no-store"
    return reply


def failure_location(code: str, provider: str, reference: str) -> str:
    """Where a browser goes after a failure. reference: the request's id, which is in the log."""
    if FAILURES.get(code, UNKNOWN).on_sign_in_page:
        return f"{SIGN_IN}&error=auth_failed"
    return f"{PAGE}?{urlencode({'code': code, 'provider': provider, 'reference': reference})}"


def error_page(code: str, provider: str, reference: str) -> Reply:
    """The page. provider: its shown name, of the configuration. Other values come from the address: not trusted."""
    message = FAILURES.get(code, UNKNOWN).message.format(provider=provider)
    found = f"<p><small>Reference: {reference}</small></p>" if REFERENCE.fullmatch(reference) else ""
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="robots" content="noindex">'
        '<meta name="viewport" content="width=device-width"><title>Sign-in failed</title>'
        f"<style>{STYLE}</style></head><body><h1>Sign-in failed</h1><p>{html.escape(message)}</p>"
        f'<p><a href="{html.escape(SIGN_IN)}">Back to the sign-in page</a></p>{found}</body></html>'
    )
    reply = Reply(200, body=text.encode())
    reply.headers["Content-Type"] = "text/html; charset=utf-8"
    reply.headers["Content-Security-Policy"] = POLICY
    reply.headers["Cache-Control"] = "no-store"
    return reply
