"""LibreChat's words, as a real one said them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from geko_proxy.accounts.users import User
from geko_proxy.client_api.librechat_shapes import login_problem, register_problem, user_object

LONG = "Correct-Horse-9"


# Each text is what LibreChat v0.8.7 answers to this body.
@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "Missing credentials"),
        ({"email": "a@b.de"}, "Missing credentials"),
        ({"email": "", "password": ""}, "Missing credentials"),
        ({"email": {"$ne": None}, "password": LONG}, "Missing credentials"),
        ({"email": "nope", "password": LONG}, "email: Invalid email"),
        ({"email": "a@b.de", "password": "short"}, "password: String must contain at least 8 character(s)"),
        (
            {"email": "nope", "password": "short"},
            "email: Invalid email password: String must contain at least 8 character(s)",
        ),
        ({"email": 1, "password": LONG}, "email: Expected string, received number"),
        ({"email": "a@b.de", "password": 12345678}, "password: Expected string, received number"),
        ({"email": "a@b.de", "password": " " * 9}, "password: Password cannot be only spaces"),
        ({"email": "a@b.de", "password": LONG}, None),
    ],
)
def test_login(body: dict[str, Any], text: str | None) -> None:
    assert login_problem(body) == text


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "name: Required email: Required password: Required confirm_password: Required"),
        (
            {"name": "x", "email": "nope", "password": "1", "confirm_password": "2"},
            "name: String must contain at least 3 character(s) email: Invalid email password: String must contain at "
            "least 8 character(s) confirm_password: String must contain at least 8 character(s) "
            ": The passwords did not match",
        ),
        ({"name": "Abc", "email": "a@b.de", "password": LONG}, "confirm_password: Required"),
        (
            {"name": "Abc", "email": "a@b.de", "password": LONG, "confirm_password": LONG + "x"},
            ": The passwords did not match",
        ),
        (
            {"name": 1, "username": 2, "email": 3, "password": 4, "confirm_password": 5},
            "name: Expected string, received number username: Invalid input email: Expected string, received number "
            "password: Expected string, received number confirm_password: Expected string, received number",
        ),
        (
            {"name": None, "email": None},
            "name: Expected string, received null email: Expected string, received null password: Required "
            "confirm_password: Required",
        ),
        (
            {"name": "Abc", "username": "x", "email": "a@b.de", "password": LONG, "confirm_password": LONG},
            "username: String must contain at least 2 character(s)",
        ),
        (
            {"name": "Abc", "username": "", "email": "a@b.de", "password": LONG, "confirm_password": LONG},
            None,
        ),
    ],
)
def test_register(body: dict[str, Any], text: str | None) -> None:
    assert register_problem(body) == text


def test_the_user_is_the_person_with_the_ids_of_the_shadow_account() -> None:
    account = {
        "_id": "6b03",
        "id": "6b03",
        "name": "GEKO user",
        "email": "u-1@shadow.invalid",
        "role": "USER",
    }
    user = User(uuid4(), uuid4(), "ann@x.org", "Ann", None, datetime.now(UTC), None)
    shown = user_object(account, user)
    assert (shown["_id"], shown["id"], shown["role"]) == ("6b03", "6b03", "USER")
    assert (shown["name"], shown["email"], shown["username"]) == ("Ann", "ann@x.org", "")
    assert shown["twoFactorEnabled"] is False
