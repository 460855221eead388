"""Languages and time zones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.accounts.locales import TAG, is_time_zone, normalise_language


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("en", "en"),
        ("EN-us", "en-US"),
        ("zh-hant-tw", "zh-Hant-TW"),
        ("de-CH-1996", "de-CH-1996"),
        ("es-419", "es-419"),
        ("zh-cmn-Hans-CN", "zh-cmn-Hans-CN"),
        ("en-u-ca-gregory", "en-u-ca-gregory"),
        ("de-x-private", "de-x-private"),
        (" fr ", "fr"),
        ("", None),
        ("e", None),
        ("en_US", None),
        ("english language", None),
        ("en-", None),
        ("en--US", None),
        ("../../etc", None),
        ("en\n", "en"),
        ("é", None),
        ("a" * 40, None),
    ],
)
def test_languages(text: str, tag: str | None) -> None:
    assert normalise_language(text) == tag


@given(st.from_regex(TAG, fullmatch=True))
def test_a_normalised_language_stays(text: str) -> None:
    tag = normalise_language(text)
    if tag is not None:
        assert normalise_language(tag) == tag
        assert tag.lower() == text.lower()


@pytest.mark.parametrize("name", ["Europe/Berlin", "UTC", "America/Argentina/Buenos_Aires"])
def test_time_zones(name: str) -> None:
    assert is_time_zone(name)


@pytest.mark.parametrize(
    "name", ["", "Mars/Olympus", "../../etc/passwd", "/etc/localtime", "Europe", "UTC\0", "CEST"]
)
def test_what_is_no_time_zone(name: str) -> None:
    assert not is_time_zone(name)
