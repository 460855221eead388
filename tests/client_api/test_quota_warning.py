"""Warnings for programs that chat."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import cast
from uuid import UUID, uuid4

from geko_proxy.client_api.chat_events import ClientEvent
from geko_proxy.client_api.quota_warning import QuotaWarning, headers_of
from geko_proxy.errors import StoreError
from geko_proxy.metering.standing import Standing, Standings

NOW = datetime(2026, 11, 23, tzinfo=UTC)
STANDING = Standing("workspace", "tokens", 830, 1000, NOW + timedelta(seconds=60.9), 80)
FINAL = ClientEvent("final", {})
TOKEN = ClientEvent("token", {})


class Answers:
    """Standings that a test gives; None: the database is away."""

    def __init__(self, *answers: Standing | None) -> None:
        self.left = list(answers)

    async def of_turn(self, tenant_id: UUID, turn_id: UUID) -> Standing | None:
        answer = self.left.pop(0)
        if answer is None:
            raise StoreError("away")
        return answer


def warning(*answers: Standing | None) -> QuotaWarning:
    return QuotaWarning(cast(Standings, Answers(*answers)), uuid4(), uuid4())


def test_headers_say_percent_and_seconds() -> None:
    assert headers_of(STANDING, NOW) == {"X-GEKO-Quota-Used-Percent": "83", "X-GEKO-Quota-Reset": "60"}
    assert headers_of(STANDING, NOW + timedelta(days=1))["X-GEKO-Quota-Reset"] == "0"
    assert headers_of(replace(STANDING, used=0, amount=0), NOW)["X-GEKO-Quota-Used-Percent"] == "100"
    assert headers_of(replace(STANDING, used=999), NOW)["X-GEKO-Quota-Used-Percent"] == "99"
    assert headers_of(None) == {}


async def test_each_threshold_is_told_once_and_before_the_end() -> None:
    given = warning(STANDING, replace(STANDING, used=960, threshold=95))
    first = given.event(await given.look())
    assert [each.data["threshold"] for each in first] == [80]
    assert await given.before_end([TOKEN]) == [TOKEN]
    told, last = (await given.before_end([TOKEN, FINAL]))[1:]
    assert (told.name, told.data["threshold"], last) == ("quota", 95, FINAL)


async def test_nothing_new_is_not_told_again() -> None:
    given = warning(STANDING, STANDING)
    given.event(await given.look())
    assert await given.before_end([FINAL]) == [FINAL]


async def test_an_answer_does_not_fail_because_of_a_warning() -> None:
    given = warning(None)
    assert await given.before_end([FINAL]) == [FINAL]
    nobody = QuotaWarning(cast(Standings, Answers()), uuid4(), None)
    assert await nobody.look() is None
