"""The circuit breaker against a model of its rules, and the rules one by one."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from geko_proxy.llm.breaker import MAX_GROWTH, MIN_CALLS, WINDOW_S, Breaker, BreakerOptions, Pass, State

OPTIONS = BreakerOptions(failures=3, share=0.5, cooldown_s=5.0)


class BreakerMachine(RuleBasedStateMachine):
    """Calls that overlap and end in any order, also long after the circuit has changed."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(OPTIONS)
        self.now = 0.0
        self.passes: list[tuple[Pass, State]] = []
        self.probe: Pass | None = None
        self.opened_at: float | None = None
        self.openings = 0

    @rule(seconds=st.floats(0, 200))
    def time_goes_on(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def enter(self) -> None:
        before, admits = self.breaker.state, self.breaker.admits(self.now)
        given = self.breaker.enter(self.now)
        assert (given is not None) == admits
        if given is None:
            return
        if given.probe:
            assert self.probe is None, "two probes at a time"
            assert before is State.OPEN
            assert self.opened_at is not None
            wait = OPTIONS.cooldown_s * 2 ** min(self.openings - 1, MAX_GROWTH)
            assert self.now >= self.opened_at + wait
            self.probe = given
        else:
            assert before is State.CLOSED
            self.passes.append((given, before))

    @precondition(lambda self: self.passes)
    @rule(data=st.data(), how=st.sampled_from(["succeeded", "failed", "left"]))
    def an_ordinary_call_ends(self, data: st.DataObject, how: str) -> None:
        given, _ = self.passes.pop(data.draw(st.integers(0, len(self.passes) - 1)))
        before = self.breaker.state
        self.end(given, how)
        after = self.breaker.state
        if before is not State.CLOSED:
            assert after is before, "a call of old times changed an open circuit"
        elif after is State.OPEN:
            assert how == "failed"
            self.openings, self.opened_at = self.openings + 1, self.now
        else:
            assert after is State.CLOSED

    @rule()
    def a_call_breaks_off_after_its_answer(self) -> None:
        before = self.breaker.state
        self.breaker.broke_off(self.now)
        if before is not self.breaker.state:
            assert (before, self.breaker.state) == (State.CLOSED, State.OPEN)
            self.openings, self.opened_at = self.openings + 1, self.now

    @precondition(lambda self: self.probe is not None)
    @rule(how=st.sampled_from(["succeeded", "failed", "left"]))
    def the_probe_ends(self, how: str) -> None:
        assert self.probe is not None
        given, self.probe = self.probe, None
        self.end(given, how)
        if how == "succeeded":
            assert self.breaker.state is State.CLOSED
            self.openings = 0
        elif how == "failed":
            assert self.breaker.state is State.OPEN
            self.openings, self.opened_at = self.openings + 1, self.now
        else:
            assert self.breaker.state is State.OPEN
            assert self.breaker.admits(self.now)

    def end(self, given: Pass, how: str) -> None:
        if how == "left":
            self.breaker.left(given)
        elif how == "failed":
            self.breaker.failed(given, self.now)
        else:
            self.breaker.succeeded(given, self.now)

    @invariant()
    def half_open_exactly_while_a_probe_is_out(self) -> None:
        assert (self.breaker.state is State.HALF_OPEN) == (self.probe is not None)

    @invariant()
    def an_open_circuit_admits_after_its_wait(self) -> None:
        if self.breaker.state is State.OPEN:
            assert self.breaker.admits(self.now + self.breaker.wait_s(self.now) + 1e-6)
            assert self.breaker.admits(self.now) == (self.breaker.wait_s(self.now) == 0)


TestBreaker = BreakerMachine.TestCase


def call(breaker: Breaker, now: float, *, works: bool) -> None:
    given = breaker.enter(now)
    assert given is not None
    (breaker.succeeded if works else breaker.failed)(given, now)


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not() -> None:
    breaker = Breaker(OPTIONS)
    for works in (False, False, True, False, False):
        call(breaker, 0.0, works=works)
    assert breaker.admits(0.0)
    call(breaker, 1.0, works=False)
    assert (breaker.state, breaker.wait_s(1.0), breaker.enter(5.9)) == (State.OPEN, 5.0, None)


def test_the_share_of_failures_opens_it_when_there_are_enough_calls_in_the_window() -> None:
    breaker = Breaker(OPTIONS)
    for index in range(MIN_CALLS - 1):
        call(breaker, 0.0, works=index % 2 == 0)
    assert breaker.admits(0.0)
    call(breaker, 0.0, works=False)
    assert not breaker.admits(0.0)
    old = Breaker(OPTIONS)
    for index in range(MIN_CALLS - 1):
        call(old, 0.0, works=index % 2 == 0)
    call(old, WINDOW_S + 1, works=False)
    assert old.state is State.CLOSED


def test_the_cool_down_doubles_up_to_its_limit_and_begins_anew_after_a_success() -> None:
    breaker, now, waits = Breaker(OPTIONS), 0.0, []
    for _ in range(3):
        call(breaker, now, works=False)
    for _ in range(8):
        waits.append(breaker.wait_s(now))
        now += waits[-1]
        call(breaker, now, works=False)
    assert waits == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 160.0, 160.0]
    now += breaker.wait_s(now)
    call(breaker, now, works=True)
    for _ in range(3):
        call(breaker, now, works=False)
    assert breaker.wait_s(now) == 5.0


def test_what_is_heard_of_calls_of_old_times_does_not_count() -> None:
    breaker = Breaker(OPTIONS)
    old = [breaker.enter(0.0) for _ in range(6)]
    for _ in range(3):
        call(breaker, 0.0, works=False)
    call(breaker, 5.0, works=True)
    for given in old[:5]:
        assert given is not None
        breaker.failed(given, 5.0)
    assert breaker.admits(5.0)
    for _ in range(2):
        call(breaker, 5.0, works=False)
    assert old[5] is not None
    breaker.succeeded(old[5], 5.0)
    call(breaker, 5.0, works=False)
    assert not breaker.admits(5.0)
