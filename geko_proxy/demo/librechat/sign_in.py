"""Signing in and out: the routes of /api/auth and /api/user (contract §1.1, §2.1–2.4)."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from aiohttp import web

from geko_proxy.demo.librechat import tokens
from geko_proxy.demo.librechat.accounts import Account
from geko_proxy.demo.librechat.express import Json, add_cookie, json_reply, text_reply
from geko_proxy.demo.librechat.limits import LOGIN_TEXT, REGISTER_TEXT, banned_reply, clear_cookies
from geko_proxy.demo.librechat.routes import Call, Guard, Route

CHECK_MAIL = "Please check your email to verify your email address."
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")


def _signed_in(call: Call, account: Account, refresh: str, ends_at: float, *, with_id: bool) -> web.Response:
    user = account.public()
    public_id = user.pop("id")
    user["refreshToken"] = []
    if with_id:
        user["id"] = public_id
    reply = json_reply({"token": call.lc.accounts.access_token(account), "user": user})
    add_cookie(reply, "refreshToken", refresh, ends_at)
    add_cookie(reply, "token_provider", "librechat", ends_at)
    return reply


async def login(call: Call) -> web.Response:
    """POST /api/auth/login"""
    passes, headers = call.lc.limiters.login.count(call.ip)
    if not passes:
        return json_reply({"message": LOGIN_TEXT}, 429, headers)
    reply = banned_reply(call) or _log_in(call)
    reply.headers.update(headers)
    return reply


def _log_in(call: Call) -> web.Response:
    email, password = call.body.get("email"), call.body.get("password")
    if not email or not password:
        return json_reply({"message": "Missing credentials"}, 404)
    problem = _email_problem(email) or _length_problem("password", password, 8, 128)
    if problem:
        return json_reply({"message": problem}, 404)
    account = call.lc.accounts.by_email(email)
    if account is None:
        return json_reply({"message": "Email does not exist."}, 404)
    if account.password != password:
        return json_reply({"message": "Incorrect password."}, 404)
    if account.credits is None:
        account.credits = call.lc.settings.start_balance
    return _signed_in(call, account, *call.lc.accounts.open_session(account), with_id=True)


async def register(call: Call) -> web.Response:
    """POST /api/auth/register"""
    passes, headers = call.lc.limiters.register.count(call.ip)
    if not passes:
        return json_reply({"message": REGISTER_TEXT}, 429, headers)
    reply = banned_reply(call) or await _register(call)
    reply.headers.update(headers)
    return reply


async def _register(call: Call) -> web.Response:
    if not call.lc.settings.registration:
        return json_reply({"message": "Registration is not allowed."}, 403)
    body = call.body
    problems = _registration_problems(body)
    if problems:
        return json_reply({"message": " ".join(problems)}, 404)
    domains = call.lc.settings.allowed_domains
    if domains is not None and body["email"].lower().rpartition("@")[2] not in domains:
        text = "The email address provided cannot be used. Please use a different email address."
        return json_reply({"message": text}, 403)
    if not call.lc.accounts.add(body["name"], body["email"], body["password"], body.get("username")):
        await asyncio.sleep(call.lc.settings.duplicate_delay_s)
    return json_reply({"message": CHECK_MAIL})


def _registration_problems(body: Json) -> list[str]:
    found = [
        _length_problem("name", body.get("name"), 3, 80),
        None if body.get("username") is None else _length_problem("username", body["username"], 2, 80),
        _email_problem(body.get("email")),
        _length_problem("password", body.get("password"), 8, 128),
        _length_problem("confirm_password", body.get("confirm_password"), 8, 128),
    ]
    if body.get("password") != body.get("confirm_password"):
        found.append(": The passwords did not match")
    return [problem for problem in found if problem]


def _email_problem(value: Any) -> str | None:
    if not isinstance(value, str):
        return _type_problem("email", value)
    return None if _EMAIL.fullmatch(value) else "email: Invalid email"


def _length_problem(name: str, value: Any, least: int, most: int) -> str | None:
    if not isinstance(value, str):
        return _type_problem(name, value)
    if len(value) < least:
        return f"{name}: String must contain at least {least} character(s)"
    return f"{name}: String must contain at most {most} character(s)" if len(value) > most else None


def _type_problem(name: str, value: Any) -> str:
    if value is None:
        return f"{name}: Required"
    kinds = {bool: "boolean", int: "number", float: "number", list: "array", dict: "object"}
    return f"{name}: Expected string, received {kinds.get(type(value), 'unknown')}"


async def refresh(call: Call) -> web.Response:
    """POST /api/auth/refresh"""
    cookie = call.request.cookies.get("refreshToken")
    if not cookie:
        return text_reply("Refresh token not provided")
    try:
        rotated = call.lc.accounts.rotate(cookie)
    except tokens.BadToken:
        return text_reply("Invalid refresh token", 403)
    if rotated is None:
        return text_reply("Refresh token expired or not found for this user", 401)
    return _signed_in(call, *rotated, with_id=False)


async def logout(call: Call) -> web.Response:
    """POST /api/auth/logout: ends only the session of the cookie that came along."""
    call.lc.accounts.end_session(call.request.cookies.get("refreshToken", ""))
    reply = json_reply({"message": "Logout successful"})
    clear_cookies(reply)
    return reply


async def user(call: Call) -> web.Response:
    """GET /api/user"""
    return json_reply(call.user.public())


async def delete_user(call: Call) -> web.Response:
    """DELETE /api/user/delete"""
    call.lc.forget(call.user)
    return json_reply({"message": "User deleted"})


async def terms(call: Call) -> web.Response:
    """GET /api/user/terms"""
    return json_reply({"termsAccepted": call.user.terms_accepted})


async def accept_terms(call: Call) -> web.Response:
    """POST /api/user/terms/accept"""
    call.user.terms_accepted = True
    return json_reply({"message": "Terms accepted successfully"})


ROUTES = (
    Route("POST", "/api/auth/login", login, Guard.OPEN),
    Route("POST", "/api/auth/register", register, Guard.OPEN),
    Route("POST", "/api/auth/refresh", refresh, Guard.OPEN),
    Route("POST", "/api/auth/logout", logout),
    Route("GET", "/api/user", user),
    Route("DELETE", "/api/user/delete", delete_user),
    Route("GET", "/api/user/terms", terms),
    Route("POST", "/api/user/terms/accept", accept_terms),
)
