"""The cookie by which a browser is known that an account's owner has signed in with (OWASP: device cookies).

It signs nobody in. It only keeps strangers' wrong guesses from slowing its owner down.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from typing import Final

from geko_proxy.client_api.cookies import RefreshCookies
from geko_proxy.client_api.login_limits import account_of
from geko_proxy.config import Settings
from geko_proxy.exchange import Exchange, Reply

COOKIE: Final = "geko_device"
VALUE: Final = re.compile(r"([0-9a-f]{32})\.(\d{1,12})\.([0-9a-f]{64})", re.ASCII)
LIFE_S: Final = 180 * 86_400


class Devices:
    """Reads and sets the cookie."""

    def __init__(self, settings: Settings) -> None:
        secret = settings.auth.encryption_secret.encode()
        self._key = hmac.digest(secret, b"geko device cookie 1", "sha256")
        self._cookies = RefreshCookies(settings.server)

    def read(self, exchange: Exchange, email: str, now: float | None = None) -> str | None:
        """The id of the device, if this account's owner has signed in with it."""
        match = VALUE.fullmatch(exchange.request.cookies.get(COOKIE, ""))
        if match is None:
            return None
        device, issued_at, mac = match.groups()
        if not hmac.compare_digest(mac, self._mac(device, issued_at, email)):
            return None
        age = (time.time() if now is None else now) - int(issued_at)
        return device if 0 <= age < LIFE_S else None

    def set(self, exchange: Exchange, reply: Reply, email: str) -> None:
        """Make the browser known as the account owner's."""
        device = self.read(exchange, email) or secrets.token_hex(16)
        issued_at = str(int(time.time()))
        value = f"{device}.{issued_at}.{self._mac(device, issued_at, email)}"
        self._cookies.add(exchange, reply, COOKIE, value, f"Max-Age={LIFE_S}")

    def _mac(self, device: str, issued_at: str, email: str) -> str:
        text = f"{device}.{issued_at}.{account_of(email)}"
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()
