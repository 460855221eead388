"""Recent answers hold for a moment, and not past any change."""

from __future__ import annotations

import pytest

from geko_proxy.storage.recent import Recent


class Store:
    """A source whose generation the test sets."""

    def __init__(self) -> None:
        self.generation: int | None = 0


def test_a_change_of_any_source_ends_it() -> None:
    one, two = Store(), Store()
    recent: Recent[str] = Recent(one, two)
    recent.put("k", "v", recent.stamp())
    assert recent.get("k") == "v"
    two.generation = 1
    assert recent.get("k") is None
    one.generation = None  # changes can't be heard
    assert recent.get("k") is None
    recent.put("k", "v", recent.stamp())
    one.generation = 0
    assert recent.get("k") is None


def test_a_change_while_asking_is_not_missed() -> None:
    store = Store()
    recent: Recent[str] = Recent(store)
    stamp = recent.stamp()
    store.generation = 1  # somebody writes while we read
    recent.put("k", "old", stamp)
    assert recent.get("k") is None


def test_it_holds_for_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 50.0
    monkeypatch.setattr("geko_proxy.storage.recent.monotonic", lambda: now)
    recent: Recent[str] = Recent(Store(), ttl_s=5)
    recent.put("k", "v", recent.stamp())
    now = 54.9
    assert recent.get("k") == "v"
    now = 55.1
    assert recent.get("k") is None
