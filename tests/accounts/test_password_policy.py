"""Which new passwords are taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.accounts.password_policy import (
    MAX_LENGTH,
    TOO_CLOSE,
    TOO_COMMON,
    TOO_SIMPLE,
    password_problems,
)

OWN = ("Ann Meier", "ann.meier@acme-corp.example", "annika")


@pytest.mark.parametrize(
    ("password", "problem"),
    [
        ("password", TOO_COMMON),
        ("PassWord", TOO_COMMON),
        ("P@ssw0rd", TOO_COMMON),
        ("password123!", TOO_COMMON),
        ("!!letmein99", TOO_COMMON),
        ("sunshine1", TOO_COMMON),
        ("iloveyou2", TOO_COMMON),
        ("basketball", TOO_COMMON),
        ("ｐａｓｓｗｏｒｄ", TOO_COMMON),
        ("12345678", TOO_SIMPLE),
        ("qwertyuiop", TOO_SIMPLE),
        ("qwertyasdfgh", TOO_SIMPLE),
        ("9876543210", TOO_SIMPLE),
        ("abcdefgh1234", TOO_SIMPLE),
        ("aaaaaaaaaaaa", TOO_SIMPLE),
        ("abcabcabcabc", TOO_SIMPLE),
        ("ann.meier@acme-corp.example", TOO_CLOSE),
        ("annmeier2026", TOO_CLOSE),
        ("Acme-Corp-1", TOO_CLOSE),
        ("Annika!99", TOO_COMMON),
        ("short", "Must contain at least 8 character(s)."),
        ("x7" * 65, f"Must contain at most {MAX_LENGTH} characters."),
        (" " * 10, "Must not be only blanks."),
    ],
)
def test_easy_ones_are_refused_with_the_reason(password: str, problem: str) -> None:
    assert password_problems(password, own=OWN) == [problem]


@pytest.mark.parametrize(
    "password",
    ["Correct-Horse-9", "long enough", "geko-1a2b3c4d", "tr0ub4dor&3", "Purple-Giraffe-44", "密码很难猜到的那种",
     "Meier likes tomatoes", "4f9a0c2e8b7d6135", "dontbreakthisoneplease"],
)  # fmt: skip
def test_others_are_taken(password: str) -> None:
    assert password_problems(password, own=OWN) == []


def test_the_least_length_is_a_setting() -> None:
    assert password_problems("Tru-Horse9", min_length=12) == ["Must contain at least 12 character(s)."]


@given(st.text(max_size=140), st.lists(st.one_of(st.none(), st.text(max_size=60)), max_size=3))
def test_any_text_gets_an_answer(password: str, own: list[str | None]) -> None:
    problems = password_problems(password, own=own)
    assert all(problem and password not in problem for problem in problems if len(password) >= 8)
