"""When a running answer asks for more, and for how much."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import pytest

from geko_proxy.metering.grants import MAX_STEPS, SHARE, MeteredTurn, Pricing
from geko_proxy.metering.leases import Amount, Granted, Lease, NewTurn
from geko_proxy.metering.ledger import Charge
from geko_proxy.metering.limits import Actor, Limit, LimitScope, Unit, holds_of
from geko_proxy.metering.meter import TurnMeter
from geko_proxy.metering.prices import Price, PriceTable
from geko_proxy.metering.tokens import TokenCounter

STEP = 100
EPOCH = datetime(2020, 1, 1, tzinfo=UTC)
TABLE = PriceTable(
    [Price("Mock/*", input=2_000_000, output=10_000_000, valid_from=EPOCH)]
)  # 2 and 10 a token


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def running(counter: TokenCounter, granted: Amount, *, money: bool = False) -> tuple[MeteredTurn, Clock]:
    turn = NewTurn(uuid4(), uuid4(), uuid4(), None, "Mock", "gpt-4o")
    limit = Limit(uuid4(), turn.workspace_id, LimitScope.WORKSPACE, unit=Unit.COST, amount=10**6)
    actor = Actor(turn.workspace_id, turn.user_id, None, turn.endpoint, turn.model)
    holds = holds_of((limit,) if money else (), actor, turn.started_at, "UTC")
    clock = Clock()
    meter = TurnMeter(counter, turn.model)
    return MeteredTurn(
        Lease(turn, holds, granted), meter, STEP, 20, Pricing(turn, holds, TABLE), clock
    ), clock


def speak(turn: MeteredTurn, words: int) -> None:
    turn.meter.on_text("step", " river" * words)


@pytest.mark.parametrize(
    ("seconds", "room", "step"),
    [
        (10.0, None, STEP),  # a slow model: never less than the first step
        (1.0, None, 200),  # 50 tokens a second: for 4 s
        (0.01, None, STEP * MAX_STEPS),
        (1.0, 160 * SHARE, 160),  # little is left for everybody
        (1.0, 5, STEP),
    ],
)
def test_a_step_follows_the_speed_and_what_is_left(
    counter: TokenCounter, seconds: float, room: int | None, step: int
) -> None:
    turn, clock = running(counter, Amount(200))
    speak(turn, 50)
    clock.now += seconds
    turn.add(turn.step_amount(), Granted(STEP, room=room), STEP)
    assert turn.step == step
    assert not turn.dry


def test_what_is_not_granted_whole_is_asked_for_in_small_steps(counter: TokenCounter) -> None:
    turn, clock = running(counter, Amount(200))
    speak(turn, 190)
    clock.now += 0.1
    turn.add(turn.step_amount(), Granted(STEP - 1), STEP)
    assert (turn.step, turn.dry, turn.granted.tokens) == (STEP, True, 299)


def test_money_is_left_by_the_dearest_kind_of_token(counter: TokenCounter) -> None:
    turn, _ = running(counter, Amount(1000, 300), money=True)
    assert turn.left == 30
    speak(turn, 10)
    assert turn.consumed == Amount(10, 100)
    assert turn.left == 20
    speak(turn, 30)
    assert turn.missing == Amount(0, 100)
    assert turn.left < 0
    assert turn.step_amount() == Amount(STEP, 1000)


def test_without_a_limit_in_money_nothing_is_asked_for_in_money(counter: TokenCounter) -> None:
    turn, _ = running(counter, Amount(100))
    speak(turn, 10)
    assert (turn.consumed, turn.step_amount(), turn.left) == (Amount(10), Amount(STEP), 90)


def test_a_charge_gets_the_price_of_its_own_model(counter: TokenCounter) -> None:
    turn, _ = running(counter, Amount(100))
    cheap = PriceTable(
        [Price("*/small", 1_000_000, 1_000_000, EPOCH), Price("Mock/*", 2_000_000, 10_000_000, EPOCH)]
    )
    pricing = Pricing(turn.lease.turn, turn.lease.holds, cheap)
    charges = [
        Charge("r", 1, "chat", "gpt-4o", "openAI", 3, 4),
        Charge("r", 2, "subagent", "small", "x", 3, 4),
    ]
    assert [charge.cost for charge in pricing.priced(charges)] == [46, 7]


def test_a_cut_answer_is_charged_what_was_passed_on(counter: TokenCounter) -> None:
    reported = Charge("r", 1, "chat", "gpt-4o", "openAI", 10, 40)
    guess = Charge("r", -1, "chat", "gpt-4o", "", 5, 100, estimated=True)
    turn, _ = running(counter, Amount(120))
    assert [each.tokens for each in turn.within([reported, guess])] == [50, 70]
    turn, _ = running(counter, Amount(20))
    assert [each.tokens for each in turn.within([reported, guess])] == [50, 5]  # a provider's word stands
    turn, _ = running(counter, Amount(1000, 505), money=True)
    assert turn.pricing.priced(turn.within([guess]))[0].cost == 500  # 10 for the prompt, 49 tokens of 10


def test_what_is_not_used_may_be_given_back(counter: TokenCounter) -> None:
    turn, _ = running(counter, Amount(300, 5000), money=True)
    speak(turn, 50)
    used = turn.consumed
    spare = turn.take_spare()
    assert spare == Amount(300 - used.tokens, 5000 - used.cost)
    assert turn.granted == used
    assert turn.missing == Amount(0)
    speak(turn, 2)
    assert turn.missing == Amount(2, 20)  # it waits
    turn.keep(spare, Amount(spare.tokens - 10, 0))
    assert turn.granted == Amount(used.tokens + 10, 5000)
    assert turn.missing == Amount(0)
    assert turn.dry
    nothing = turn.take_spare()
    turn.keep(nothing, Amount(0))
    assert turn.granted == Amount(used.tokens + 10, 5000)


def test_a_limit_in_money_that_comes_later_counts_from_the_first_word_on(counter: TokenCounter) -> None:
    turn, _ = running(counter, Amount(300))
    speak(turn, 50)
    assert (turn.consumed.cost, turn.left) == (0, 300 - turn.consumed.tokens)
    asked = turn.lease.turn
    limit = Limit(uuid4(), asked.workspace_id, LimitScope.WORKSPACE, unit=Unit.COST, amount=10**6)
    before = turn.lease.holds
    turn.hold(holds_of((limit,), asked.actor, asked.started_at, "UTC"))
    assert turn.lease.holds[: len(before)] == before
    assert turn.lease.holds[-1].limit_id == limit.limit_id
    assert turn.consumed.cost == turn.missing.cost > 0
    assert turn.left < 0
    assert turn.look_at < turn.meter.at_most
