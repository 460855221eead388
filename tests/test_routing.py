"""Paths must be read the same way by GEKO and by LibreChat, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.routing import BadPath, RouteTable, normalise_path

TABLE = RouteTable(
    [
        ("GET", "/", "root"),
        ("GET", "/api/user", "user"),
        ("GET,POST", "/api/messages/{conversationId}", "messages"),
        ("GET", "/api/convos/gen_title/{id}", "title"),
        ("GET", "/api/convos/{id}", "convo"),
        ("*", "/images/{userId}/{file*}", "images"),
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "value", "params"),
    [
        ("GET", "/", "root", {}),
        ("GET", "/API/User/", "user", {}),
        ("HEAD", "/api/user", "user", {}),
        ("GET", "/api/%75ser", "user", {}),
        ("POST", "/api/messages/aB-1", "messages", {"conversationId": "aB-1"}),
        ("GET", "/api/convos/gen_title/x", "title", {"id": "x"}),
        ("GET", "/api/convos/gen_title", "convo", {"id": "gen_title"}),
        ("DELETE", "/images/u/a/b.png", "images", {"userId": "u", "file": "a/b.png"}),
    ],
)
def test_rows_are_found(method: str, path: str, value: str, params: dict[str, str]) -> None:
    match = TABLE.match(method, normalise_path(path))
    assert match is not None
    assert (match.value, match.params) == (value, params)


@pytest.mark.parametrize("path", ["/api", "/api/user/x", "/api/messages", "/nothing", "/images/u"])
def test_other_paths_are_not_found(path: str) -> None:
    assert TABLE.match("GET", normalise_path(path)) is None


def test_methods_of_a_path() -> None:
    assert TABLE.methods("/api/messages/x") == {"GET", "HEAD", "POST"}


@pytest.mark.parametrize(
    "path",
    [
        "//api/user", "/api//user", "/api/./user", "/api/../user", "/api/%2e%2e/user", "/api/%2E/user", "/..",
        "/api%2fuser", "/api%5Cuser", "/api\\user", "/api/%zz", "/api/%", "/a%00b", "/a b", "/a\x7f", "api/user", "",
        "/api/us\u00e9r",
    ],
)  # fmt: skip
def test_tricks_are_refused(path: str) -> None:
    with pytest.raises(BadPath):
        normalise_path(path)


@given(st.text(max_size=40))
def test_what_is_accepted_is_stable_and_holds_no_tricks(path: str) -> None:
    try:
        normal = normalise_path("/" + path)
    except BadPath:
        return
    assert normalise_path(normal) == normal
    assert ".." not in normal.split("/")
    assert "//" not in normal


def test_a_row_that_is_there_twice_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="twice"):
        RouteTable([("GET", "/a/{x}", 1), ("GET", "/a/{y}", 2)])
