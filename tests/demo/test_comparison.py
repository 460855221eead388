"""The comparison of the replay must see differences, or the replay proves nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.demo.comparison import Ids, Reply, compare
from tests.demo.recordings import Recording, recordings


def recorded(name: str) -> Recording:
    """One recording of the main story."""
    return next(r for r in recordings() if r.name == name)


def same(recording: Recording) -> Reply:
    """A reply just as recorded."""
    return Reply(recording.status, list(recording.reply_headers), recording.reply_body)


Change = Callable[[Reply], Reply]


def lax(reply: Reply) -> Reply:
    """With other cookie attributes."""
    return Reply(reply.status, [(n, v.replace("Strict", "Lax")) for n, v in reply.headers], reply.body)


def test_a_recording_is_like_itself() -> None:
    for recording in recordings():
        assert compare(recording, same(recording), Ids()) == [], recording.name


@pytest.mark.parametrize(
    ("name", "change", "difference"),
    [
        ("09_user", lambda r: Reply(201, r.headers, r.body), "status 201"),
        ("09_user", lambda r: Reply(r.status, r.headers[1:], r.body), "header x-robots-tag is missing"),
        (
            "09_user",
            lambda r: Reply(r.status, r.headers, r.body.replace(b'"role"', b'"rule"')),
            "body.role is missing",
        ),
        (
            "09_user",
            lambda r: Reply(r.status, r.headers, r.body.replace(b"false", b'"no"')),
            "recorded False",
        ),
        (
            "07_login",
            lax,
            "cookies",
        ),
        ("17_refresh_no_cookie", lambda r: Reply(r.status, r.headers, b"no"), "body b'no'"),
        (
            "21_chat_stream",
            lambda r: Reply(r.status, r.headers, r.body.replace(b"on_run_step", b"on_step")),
            "events",
        ),
        (
            "21_chat_stream",
            lambda r: Reply(r.status, r.headers, r.body.replace(b'"title"', b'"none"')),
            "events",
        ),
        (
            "21_chat_stream",
            lambda r: Reply(r.status, r.headers, r.body.replace(b"lazy ", b"tired ")),
            "tired",
        ),
        (
            "40_usage_asked_stream",
            lambda r: Reply(r.status, r.headers, r.body.replace(b":40,", b":41,")),
            "41",
        ),
        (
            "21_chat_stream",
            lambda r: Reply(r.status, r.headers, r.body.replace(b"46b86fd6", b"00000000", 1)),
            "runId",
        ),
    ],
)
def test_differences_are_seen(name: str, change: Change, difference: str) -> None:
    recording = recorded(name)
    found = compare(recording, change(same(recording)), Ids())
    assert any(difference in text for text in found), found
