"""Where a browser may be sent."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from geko_proxy.client_api.redirects import local_page
from geko_proxy.errors import Refused


@pytest.mark.parametrize(
    "page", ["/", "/c/new", "/c/1?a=b&c=%20#x", "/c/new?next=//evil.test", "/login", "/c/%C3%A9"]
)
def test_pages(page: str) -> None:
    assert local_page(page) == page


def test_nothing_given_is_home() -> None:
    assert (local_page(None), local_page("")) == ("/", "/")


@pytest.mark.parametrize(
    "page",
    ["//evil.test", "/\\evil.test", "\\/evil.test", "/\t/evil.test", "c/new", "?a", "#a", "http:/x", "/a//b",
     "/a/../b", "/%2e/x", "/%2F/x", "/%00", "/a b", "/é", "/API/user", "/v1", "/oauth/google", "/x\r\nA: b"],
)  # fmt: skip
def test_what_is_no_page(page: str) -> None:
    with pytest.raises(Refused) as found:
        local_page(page, "next")
    assert found.value.status == 400
    assert list(found.value.details or {}) == ["next"]


def as_browsers_do(base: str, page: str) -> str:
    """The host a browser goes to: it drops tabs and line ends and takes \\ for / (WHATWG URL)."""
    cleaned = page.strip("".join(map(chr, range(33))))
    for dropped in "\t\r\n":
        cleaned = cleaned.replace(dropped, "")
    return urlsplit(urljoin(base, cleaned.replace("\\", "/"))).netloc


@given(st.text(alphabet="/\\.:@?#%25ef\t\r\n abhtps", max_size=20))
@example("//a")
@example("/\\a")
@example("/\t/a")
def test_whatever_passes_stays_on_this_host(page: str) -> None:
    try:
        found = local_page(page)
    except Refused:
        return
    assert as_browsers_do("https://chat.test/v1/auth", found) == "chat.test"
