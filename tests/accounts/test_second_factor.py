"""One-time codes and recovery codes on a real database, with a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pyotp
import pytest

from geko_proxy.accounts.sealing import BrokenSeal, Sealer
from geko_proxy.accounts.second_factor import ALPHABET, SecondFactors, Verdict, new_codes
from geko_proxy.storage.database import Database
from tests.conftest import Account

START = 1_900_000_000


class Clock:
    now = float(START)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def factors(clock: Clock) -> SecondFactors:
    return SecondFactors(Sealer("k" * 40), clock)


Do = Callable[..., Any]


@pytest.fixture
def do(database: Database, factors: SecondFactors, account: Account) -> Do:
    """Calls a method of SecondFactors in a transaction of its own."""

    async def call(name: str, *arguments: Any, **options: Any) -> Any:
        async with database.tenant(account.tenant_id) as scope:
            return await getattr(factors, name)(scope, account.user_id, *arguments, **options)

    return call


async def switched_on(do: Do, clock: Clock) -> tuple[str, tuple[str, ...]]:
    secret = (await do("enrol", "a@x.org")).secret
    _, codes = await do("confirm", pyotp.TOTP(secret).at(int(clock.now)))
    clock.now += 60
    return secret, codes


async def test_the_test_vectors_of_rfc_6238(do: Do, clock: Clock, factors: SecondFactors) -> None:
    secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"  # RFC 6238, appendix B: 12345678901234567890
    for seconds, code in ((59, "287082"), (1111111109, "081804"), (2000000000, "279037")):
        clock.now = seconds
        assert factors._step_of(secret, code, after=0) == seconds // 30


async def test_the_key_is_sealed_for_its_user(
    do: Do, database: Database, account: Account, stranger: Account
) -> None:
    made = await do("enrol", "a@x.org")
    async with database.tenant(account.tenant_id) as scope:
        stored = await scope.fetch_value("select pending_secret from totp where tenant_id = $1")
    assert made.secret not in stored
    with pytest.raises(BrokenSeal):
        Sealer("k" * 40).open(stored, f"totp/{account.tenant_id}/{stranger.user_id}")
    assert made.uri.startswith("otpauth://totp/GEKO:a%40x.org?secret=")


@pytest.mark.parametrize(
    ("offset", "passed"), [(-61, False), (-30, True), (0, True), (30, True), (61, False)]
)
async def test_a_step_more_or_less(do: Do, clock: Clock, offset: int, passed: bool) -> None:
    secret, _ = await switched_on(do, clock)
    clock.now += 300
    code = pyotp.TOTP(secret).at(int(clock.now) + offset)
    assert (await do("check", code)).passed is passed


async def test_a_code_and_all_before_it_count_once(do: Do, clock: Clock) -> None:
    secret, _ = await switched_on(do, clock)
    totp = pyotp.TOTP(secret)
    code, before = totp.at(int(clock.now)), totp.at(int(clock.now) - 30)
    verdicts = await asyncio.gather(*(do("check", code) for _ in range(4)))
    assert sorted(verdict.passed for verdict in verdicts) == [False, False, False, True]
    assert not (await do("check", before)).passed


@pytest.mark.parametrize("code", ["", "12345", "1234567", "１２３４５６", "12 456", "abcdef", "\0" * 6])
async def test_what_is_no_code(do: Do, clock: Clock, code: str) -> None:
    await switched_on(do, clock)
    assert not (await do("check", code)).passed


async def test_wrong_ones_block_for_longer_and_longer(
    do: Do, clock: Clock, database: Database, account: Account
) -> None:
    secret, codes = await switched_on(do, clock)
    assert [(await do("check", "x")) for _ in range(5)] == [
        *[Verdict(passed=False)] * 4,
        Verdict(passed=False, blocks=True),
    ]
    blocked = await do("check", pyotp.TOTP(secret).at(int(clock.now)))
    assert not blocked.passed
    assert 25 <= blocked.wait_s <= 30
    assert (await do("check", None, codes[0])).wait_s  # recovery codes too
    async with database.tenant(account.tenant_id) as scope:
        await scope.execute("update totp set blocked_until = now() where tenant_id = $1")
    assert not (await do("check", "x")).passed
    assert 55 <= (await do("check", "x")).wait_s <= 60
    async with database.tenant(account.tenant_id) as scope:
        await scope.execute("update totp set blocked_until = now() where tenant_id = $1")
    assert (await do("check", pyotp.TOTP(secret).at(int(clock.now)))).passed
    assert [(await do("check", "x")).wait_s for _ in range(5)] == [0] * 5  # counted from anew


async def test_recovery_codes(do: Do, clock: Clock, database: Database, account: Account) -> None:
    _, codes = await switched_on(do, clock)
    assert len(set(codes)) == 10
    async with database.tenant(account.tenant_id) as scope:
        rows = await scope.fetch("select code_hash from recovery_codes where tenant_id = $1")
    assert all(code.encode() not in row["code_hash"] for row in rows for code in codes)
    typed = f" {codes[3][:4].upper()}-{codes[3][4:]} "
    assert await do("check", None, typed) == Verdict(passed=True, recovery=True)
    assert not (await do("check", None, codes[3])).passed
    assert await do("codes_left") == 9
    new = await do("renew_codes")
    assert not (await do("check", None, codes[4])).passed
    assert (await do("check", None, new[0])).passed


async def test_a_new_key_counts_once_it_is_confirmed(do: Do, clock: Clock) -> None:
    old, old_codes = await switched_on(do, clock)
    made = await do("enrol", "a@x.org", with_codes=True)
    assert (await do("check", pyotp.TOTP(old).at(int(clock.now)))).passed
    clock.now += 60
    verdict = await do("check_pending", pyotp.TOTP(made.secret).at(int(clock.now)))
    assert verdict.passed
    verdict, codes = await do("confirm", pyotp.TOTP(made.secret).at(int(clock.now)))
    assert (verdict.passed, codes) == (True, ())  # given when enrolling
    assert not (await do("check", None, old_codes[0])).passed
    assert (await do("check", None, made.recovery_codes[0])).passed
    assert await do("confirm", "123456") is None


async def test_an_old_enrolment_and_none(do: Do, clock: Clock, database: Database, account: Account) -> None:
    assert await do("confirm", "123456") is None
    assert not (await do("check", "123456", "abcdefgh")).passed
    with pytest.raises(LookupError):
        await do("renew_codes")
    made = await do("enrol", "a@x.org")
    async with database.tenant(account.tenant_id) as scope:
        await scope.execute("update totp set pending_at = now() - interval '61 minutes' where tenant_id = $1")
    assert await do("confirm", pyotp.TOTP(made.secret).at(int(clock.now))) is None
    assert await do("is_on") is False


async def test_removal_leaves_nothing(do: Do, clock: Clock, database: Database, account: Account) -> None:
    await switched_on(do, clock)
    await do("remove")
    async with database.tenant(account.tenant_id) as scope:
        for table in ("totp", "recovery_codes"):
            assert await scope.fetch_value(f"select count(*) from {table} where tenant_id = $1") == 0
        assert await scope.fetch_value("select two_factor from users where tenant_id = $1") is False


async def test_another_tenant_sees_nothing(
    do: Do, clock: Clock, database: Database, stranger: Account
) -> None:
    await switched_on(do, clock)
    async with database.tenant(stranger.tenant_id) as scope:
        for table in ("totp", "recovery_codes", "login_tickets"):
            sql = f"select count(*) from {table} where tenant_id = $1 or true"
            assert await scope.fetch_value(sql) == 0


def test_codes_are_easy_to_type() -> None:
    assert all(len(code) == 8 and set(code) <= set(ALPHABET) for code in new_codes())
