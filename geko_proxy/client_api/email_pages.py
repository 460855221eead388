"""The pages behind a link in a mail. Looking at one changes nothing: programs that check mails open every link."""

from __future__ import annotations

import base64
import hashlib
import html
from typing import Final

from geko_proxy.exchange import Reply

STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:32rem;margin:15vh auto;padding:0 1rem;color:#222;"
    "background:#fff}button{font:inherit;padding:.5rem 1.25rem;border:0;border-radius:.375rem;color:#fff;"
    "background:#0a6b4f;cursor:pointer}a{color:#0a6b4f}@media(prefers-color-scheme:dark){body{color:#eee;"
    "background:#171717}a{color:#5fd0a8}}"
)
STYLE_HASH: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)


def question(action: str, token: str) -> Reply:
    """Asks for the click that confirms an address. token: as it came, trusted in nothing."""
    return page(
        200,
        "Confirm your e-mail address",
        f'<form method="post" action="{html.escape(action)}">'
        f'<input type="hidden" name="token" value="{html.escape(token)}">'
        "<p>Confirm that this address is yours.</p><button>Confirm</button></form>",
    )


def notice(status: int, title: str, message: str) -> Reply:
    """Says how it went."""
    return page(status, title, f'<p>{html.escape(message)}</p><p><a href="/">Go on</a></p>')


def page(status: int, title: str, content: str) -> Reply:
    """A page without scripts. content: HTML."""
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="robots" content="noindex">'
        f'<meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>{content}</body></html>"
    )
    reply = Reply(status, body=text.encode())
    reply.headers["Content-Type"] = "text/html; charset=utf-8"
    reply.headers["Content-Security-Policy"] = POLICY
    reply.headers["Cache-Control"] = "no-store"
    # with no-referrer the form would be sent with `Origin: null`
    reply.headers["Referrer-Policy"] = "same-origin"
    return reply
