"""LibreChat's words on its sign-in routes: what is wrong with a body, and the user object of a reply. Pure.

Texts as LibreChat v0.8.7 says them (recordings 05 and 06; contract §2.1, §2.2); its page shows some of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from geko_proxy.accounts.emails import normalise_email
from geko_proxy.accounts.users import User

REGISTERED: Final = "Please check your email to verify your email address."
WRONG_LOGIN: Final = "Incorrect password."  # also for an unknown e-mail, or addresses could be tried out
WRONG_CODE: Final = "Invalid 2FA code or backup code"
LOGGED_OUT: Final = "Logout successful"
NO_SESSION: Final = "Refresh token not provided"
MISSING: Final = "Missing credentials"
MISMATCH: Final = ": The passwords did not match"

NAME_LENGTH: Final = (3, 80)
USERNAME_LENGTH: Final = (2, 80)
PASSWORD_LENGTH: Final = (8, 128)

# JavaScript's names of JSON's types
TYPE_NAMES: Final[Mapping[type, str]] = {
    bool: "boolean",
    int: "number",
    float: "number",
    list: "array",
    dict: "object",
    type(None): "null",
}


def login_problem(body: Mapping[str, Any]) -> str | None:
    """What is wrong with the body of a login; None: it can be tried."""
    email, password = body.get("email"), body.get("password")
    if not email or not password or isinstance(email, dict | list) or isinstance(password, dict | list):
        return MISSING
    problems = labelled("email", email_problems(body)) + labelled(
        "password", password_problems(body, "password")
    )
    return " ".join(problems) or None


def register_problem(body: Mapping[str, Any], min_password: int = PASSWORD_LENGTH[0]) -> str | None:
    """What is wrong with the body of a registration; None: it can be tried. min_password: shortest new password."""
    length = min_password, PASSWORD_LENGTH[1]
    problems = labelled("name", text_problems(body, "name", NAME_LENGTH))
    if body.get("username") not in (None, ""):
        problems += labelled("username", username_problems(body["username"]))
    problems += labelled("email", email_problems(body))
    problems += labelled("password", password_problems(body, "password", length))
    problems += labelled("confirm_password", password_problems(body, "confirm_password", length))
    texts = all(isinstance(body.get(name), str) for name in ("name", "email", "password", "confirm_password"))
    if texts and body["password"] != body["confirm_password"]:
        problems.append(MISMATCH)
    return " ".join(problems) or None


def labelled(field: str, problems: list[str]) -> list[str]:
    """Problems with the field's name before each."""
    return [f"{field}: {problem}" for problem in problems]


def email_problems(body: Mapping[str, Any]) -> list[str]:
    """What is wrong with the field `email`."""
    problems = type_problems(body, "email")
    if not problems and normalise_email(body["email"]) is None:
        return ["Invalid email"]
    return problems


def password_problems(
    body: Mapping[str, Any], field: str, length: tuple[int, int] = PASSWORD_LENGTH
) -> list[str]:
    """What is wrong with a field that holds a password."""
    problems = text_problems(body, field, length)
    value = body.get(field)
    if isinstance(value, str) and not value.strip():
        problems.append("Password cannot be only spaces")
    return problems


def username_problems(value: Any) -> list[str]:
    """What is wrong with a user name that is given."""
    return length_problems(value, USERNAME_LENGTH) if isinstance(value, str) else ["Invalid input"]


def text_problems(body: Mapping[str, Any], field: str, length: tuple[int, int]) -> list[str]:
    """What is wrong with a field that must be a text of that length."""
    return type_problems(body, field) or length_problems(body[field], length)


def type_problems(body: Mapping[str, Any], field: str) -> list[str]:
    """Whether a field is missing or no text."""
    if field not in body:
        return ["Required"]
    value = body[field]
    if isinstance(value, str):
        return []
    return [f"Expected string, received {TYPE_NAMES.get(type(value), 'unknown')}"]


def length_problems(text: str, length: tuple[int, int]) -> list[str]:
    """Whether a text is too short or too long, in characters."""
    shortest, longest = length
    if len(text) < shortest:
        return [f"String must contain at least {shortest} character(s)"]
    if len(text) > longest:
        return [f"String must contain at most {longest} character(s)"]
    return []


def user_object(account: Mapping[str, Any], user: User) -> dict[str, Any]:
    """The `user` of LibreChat's sign-in replies (recording 07): the person, with the ids of the shadow account.

    account: LibreChat's GET /api/user of the shadow account. The ids stay: the client builds paths with them
    (contract trap 25). Favourites come from their own, filtered route.
    """
    librechat_id = account.get("_id") or account.get("id")
    return {
        **account,
        "_id": librechat_id,
        "id": librechat_id,
        "name": user.name,
        "username": user.username or "",
        "email": user.email,
        "avatar": user.avatar or account.get("avatar"),
        "emailVerified": True,
        "provider": "local",
        "twoFactorEnabled": user.two_factor,
        "favorites": [],
    }
