"""LibreChat's own walls: the rate limiters, the ban and the User-Agent rule (contract §2.7, §0.8)."""

from __future__ import annotations

import math
import re
import time
import uuid
from collections.abc import Hashable, Mapping

from aiohttp import web

from geko_proxy.demo.librechat.accounts import Account
from geko_proxy.demo.librechat.express import (
    Json,
    add_cookie,
    encode,
    error_text,
    json_reply,
    now_iso,
    sse_text,
)
from geko_proxy.demo.librechat.routes import Call
from geko_proxy.demo.librechat.settings import Limit, Settings

_BROWSER = re.compile(
    r"(?:Headless)?Chrome/\d|CriOS/\d|Firefox/\d|FxiOS/\d|Version/[\d.]+.*Safari/|Edg\w*/\d|OPR/\d|Opera|MSIE |Trident/"
)
_COOKIES = ("refreshToken", "openid_access_token", "openid_id_token", "openid_user_id", "token_provider")
LOGIN_TEXT = "Too many login attempts, please try again after 5 minutes."
REGISTER_TEXT = "Too many accounts created, please try again after 60 minutes"
UPLOAD_TEXT = "Too many file upload requests. Try again later"


class Limiter:
    """Fixed windows per key, as express-rate-limit keeps them; counts every request."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self._windows: dict[Hashable, tuple[float, int]] = {}

    def count(self, key: Hashable) -> tuple[bool, dict[str, str]]:
        """Count one request. Returns whether it passes, and the X-RateLimit headers."""
        now = time.time()
        resets_at, used = self._windows.get(key, (0.0, 0))
        if resets_at <= now:
            resets_at, used = now + self.limit.window_s, 0
        self._windows[key] = (resets_at, used + 1)
        headers = {
            "X-RateLimit-Limit": str(self.limit.maximum),
            "X-RateLimit-Remaining": str(max(0, self.limit.maximum - used - 1)),
            "X-RateLimit-Reset": str(math.ceil(resets_at)),
        }
        passes = used < self.limit.maximum
        if not passes:
            headers["Retry-After"] = str(math.ceil(resets_at - now))
        return passes, headers


class Limiters:
    """The rate limiters of one LibreChat; `messages` is None while LIMIT_MESSAGE_IP is off."""

    def __init__(self, settings: Settings) -> None:
        self.login = Limiter(settings.login_limit)
        self.register = Limiter(settings.register_limit)
        self.upload = Limiter(settings.upload_limit)
        self.messages = Limiter(settings.message_ip_limit) if settings.message_ip_limit is not None else None


class Violations:
    """Counts violations per user and kind, and remembers bans of users and of their addresses."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._banned: set[str] = set()

    def record(self, account: Account, details: Json) -> Json:
        """Add what LibreChat's logViolation adds to the details."""
        key = (account.id, str(details["type"]))
        previous = self._counts.get(key, 0)
        self._counts[key] = previous + 1
        return {**details, "prev_count": previous, "violation_count": previous + 1, "date": now_iso()}

    def ban(self, account: Account, ip: str) -> None:
        """Ban a user and the address he came from."""
        self._banned |= {account.id, ip}

    def banned(self, account: Account | None, ip: str) -> bool:
        """Whether the user or the address is banned."""
        return ip in self._banned or (account is not None and account.id in self._banned)


def is_browser(user_agent: str) -> bool:
    """Whether ua-parser-js would name a browser."""
    return bool(_BROWSER.search(user_agent))


def clear_cookies(reply: web.StreamResponse) -> None:
    """Delete all of LibreChat's login cookies."""
    for name in _COOKIES:
        add_cookie(reply, name, "", 0, private=False)


def browser_wall(call: Call) -> web.Response | None:
    """The ban check and the User-Agent rule of /api/agents, /api/files and /api/permissions."""
    if call.lc.violations.banned(call.account, call.ip):
        if call.request.path.lower().startswith("/api/agents/chat"):
            return denied(call, {"type": "ban"})
        return json_reply({"message": "Your account has been temporarily banned due to violations."}, 403)
    if is_browser(call.request.headers.get("User-Agent", "")):
        return None
    reply = error_text({"message": "Illegal request"})
    if call.lc.settings.ban_violations:
        call.lc.violations.ban(call.user, call.ip)
        call.lc.accounts.end_sessions(call.user)
        clear_cookies(reply)
    return reply


def banned_reply(call: Call) -> web.Response | None:
    """checkBan of login and register."""
    if call.lc.violations.banned(None, call.ip):
        return json_reply({"message": "Your account has been temporarily banned due to violations."}, 403)
    return None


def message_wall(call: Call) -> tuple[web.Response | None, Mapping[str, str]]:
    """The limiters of the chat POST: by address, then concurrent generations of the user."""
    headers: dict[str, str] = {}
    if call.lc.limiters.messages is not None:
        passes, headers = call.lc.limiters.messages.count(call.ip)
        if not passes:
            limit = call.lc.limiters.messages.limit
            details: Json = {"type": "message_limit", "max": str(limit.maximum), "limiter": "ip"}
            details |= {"windowInMinutes": limit.window_s // 60}
            return denied(call, call.lc.violations.record(call.user, details)), headers
    maximum = call.lc.settings.concurrent_messages
    pending = len(call.lc.jobs.active(call.user.id))
    if maximum is not None and pending >= maximum:
        details_429 = {"type": "concurrent", "limit": maximum, "pendingRequests": pending, "score": 1}
        return json_reply(call.lc.violations.record(call.user, details_429), 429), headers
    return None, headers


def denied(call: Call, details: Json) -> web.Response:
    """LibreChat's `denyRequest`: a created message and a final error as the text of a 200."""
    body = call.body
    conversation_id = body.get("conversationId") or str(uuid.uuid4())
    message_id = body.get("messageId") or str(uuid.uuid4())
    parent_id = body.get("parentMessageId") or "00000000-0000-0000-0000-000000000000"
    message = {
        "sender": "User",
        "messageId": message_id,
        "parentMessageId": parent_id,
        "conversationId": conversation_id,
        "isCreatedByUser": True,
        "text": body.get("text"),
    }
    error = {
        "sender": "GPT-4o",
        "messageId": str(uuid.uuid4()),
        "conversationId": conversation_id,
        "parentMessageId": message_id,
        "unfinished": False,
        "error": True,
        "final": True,
        "text": encode(details).decode(),
        "isCreatedByUser": False,
    }
    return sse_text([("message", {"message": message, "created": True}), ("error", error)])
