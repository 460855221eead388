"""Accounts and their refresh sessions, kept in memory (contract §2)."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from dataclasses import dataclass, field

from geko_proxy.demo.librechat import tokens
from geko_proxy.demo.librechat.express import Json, now_iso, object_id

_OBJECT_ID = re.compile(r"[0-9a-fA-F]{24}")


class Unauthorized(Exception):
    """The bearer token is refused with 401; the text goes into `message`."""


class CastError(Exception):
    """An id in a token that MongoDB cannot cast: LibreChat answers 500 (contract §2.5)."""


@dataclass(slots=True)
class Account:
    """A LibreChat user."""

    name: str
    username: str | None
    email: str
    password: str
    role: str
    id: str = field(default_factory=object_id)
    created_at: str = field(default_factory=now_iso)
    personalization_id: str = field(default_factory=object_id)
    favorites: list[Json] = field(default_factory=list)
    terms_accepted: bool = False
    credits: float | None = None

    def public(self) -> Json:
        """What GET /api/user shows."""
        return {
            "_id": self.id,
            "id": self.id,
            "name": self.name,
            "username": self.username,
            "email": self.email,
            "emailVerified": True,
            "avatar": None,
            "provider": "local",
            "role": self.role,
            "plugins": [],
            "twoFactorEnabled": False,
            "termsAccepted": self.terms_accepted,
            "personalization": {"memories": True, "_id": self.personalization_id},
            "favorites": self.favorites,
            "skillStates": {},
            "createdAt": self.created_at,
            "updatedAt": self.created_at,
        }


class Accounts:
    """All accounts and their refresh sessions."""

    def __init__(self, jwt_secret: str, refresh_secret: str, session_s: int, refresh_s: int) -> None:
        self._jwt_secret, self._refresh_secret = jwt_secret, refresh_secret
        self._session_s, self._refresh_s = session_s, refresh_s
        self._by_id: dict[str, Account] = {}
        self._by_email: dict[str, Account] = {}
        self._sessions: dict[str, tuple[str, str, float]] = {}

    def add(self, name: str, email: str, password: str, username: str | None = None) -> Account | None:
        """Create an account; None when the e-mail is taken. The very first one becomes ADMIN."""
        if email.lower() in self._by_email:
            return None
        role = "USER" if self._by_id else "ADMIN"
        account = Account(name, username, email.lower(), password, role)
        self._by_id[account.id] = self._by_email[account.email] = account
        return account

    def by_email(self, email: str) -> Account | None:
        """Find an account by its e-mail, whatever the case."""
        return self._by_email.get(email.lower())

    def remove(self, account: Account) -> None:
        """Delete an account and its sessions."""
        self.end_sessions(account)
        del self._by_id[account.id], self._by_email[account.email]

    def from_bearer(self, authorization: str | None) -> Account:
        """The account of an Authorization header. Raises Unauthorized or CastError."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthorized("No auth token")
        try:
            user_id = tokens.verify(token.strip(), self._jwt_secret).get("id")
        except tokens.BadToken as refused:
            raise Unauthorized(str(refused)) from None
        if isinstance(user_id, dict) and self._by_id:  # goes into the query as it is
            return next(iter(self._by_id.values()))
        if user_id is not None and not (isinstance(user_id, str) and _OBJECT_ID.fullmatch(user_id)):
            raise CastError
        account = self._by_id.get(str(user_id))
        if account is None:
            raise Unauthorized("Unauthorized")
        return account

    def access_token(self, account: Account) -> str:
        """The short-lived bearer token."""
        now = int(time.time())
        claims = {"id": account.id, "username": account.username, "provider": "local", "email": account.email}
        return tokens.sign({**claims, "iat": now, "exp": now + self._session_s}, self._jwt_secret)

    def open_session(self, account: Account) -> tuple[str, float]:
        """Start a refresh session. Returns the refresh token and when it ends."""
        return self._issue(object_id(), account.id, time.time() + self._refresh_s)

    def rotate(self, refresh_token: str) -> tuple[Account, str, float] | None:
        """Swap a refresh token for a new one; None without a living session. Raises BadToken."""
        payload = tokens.verify(refresh_token, self._refresh_secret)
        session_id = str(payload.get("sessionId"))
        account_id, digest, ends_at = self._sessions.get(session_id, ("", "", 0.0))
        account = self._by_id.get(account_id)
        if account is None or digest != _digest(refresh_token) or ends_at < time.time():
            return None
        return (account, *self._issue(session_id, account_id, ends_at))

    def end_session(self, refresh_token: str) -> None:
        """End the session that this very token belongs to, if there is one."""
        digest = _digest(refresh_token)
        for session_id, (_, known, _) in list(self._sessions.items()):
            if known == digest:
                del self._sessions[session_id]

    def end_sessions(self, account: Account) -> None:
        """End all sessions of an account."""
        self._sessions = {k: v for k, v in self._sessions.items() if v[0] != account.id}

    def cookie_user(self, refresh_token: str) -> str:
        """The user id in a refresh cookie: signature only, no session (contract §2.6). Raises BadToken."""
        return str(tokens.verify(refresh_token, self._refresh_secret).get("id"))

    def _issue(self, session_id: str, account_id: str, ends_at: float) -> tuple[str, float]:
        claims = {"id": account_id, "sessionId": session_id, "nonce": secrets.token_hex(4)}
        claims_at = {**claims, "iat": int(time.time()), "exp": int(ends_at)}
        token = tokens.sign(claims_at, self._refresh_secret)
        self._sessions[session_id] = (account_id, _digest(token), ends_at)
        return token, ends_at


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
