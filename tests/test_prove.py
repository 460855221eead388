"""The pure parts of the proof: it must notice each fault that it is there to notice."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench.processes import ROOT
from geko_proxy.filters import quota
from prove.books import Charged, Produced, Window
from prove.clock import ahead
from prove.load import Attempt, Heard, compare, count
from prove.races import Samples, _refusals
from prove.report import BEGIN, END, Row, details, put_between, summary, table


def compared(made: Produced, paid: Charged) -> Row:
    """One turn in both books."""
    row = Row("one turn", 1)
    compare(row, ["c"], {"c": made}, {"c": paid})
    return row


def test_equal_books_are_met() -> None:
    row = compared(Produced(100, reported=True), Charged(100))
    assert (row.provider, row.charged, row.difference, row.lost, row.failures) == (100, 100, 0, 0, [])


def test_one_token_of_a_reported_answer_is_noticed() -> None:
    for paid in (99, 101):
        (failure,) = compared(Produced(100, reported=True), Charged(paid)).failures
        assert f"100 reported and {paid} charged" in failure


def test_a_turn_that_costs_nothing_is_lost() -> None:
    row = compared(Produced(100, reported=True), Charged())
    assert row.lost == 1
    assert any("charged none" in failure for failure in row.failures)


def test_a_stopped_answer_may_differ_by_less_than_3_percent_and_is_marked() -> None:
    assert not compared(Produced(100, reported=False), Charged(98, estimated=True)).failures
    for made, paid in ((100, 97), (100, 103)):
        assert compared(Produced(made, reported=False), Charged(paid, estimated=True)).failures
    (failure,) = compared(Produced(100, reported=False), Charged(100)).failures
    assert "not marked" in failure


def test_charges_that_nobody_produced_count_in_the_total() -> None:
    row = Row("one turn", 1)
    compare(row, ["c"], {"c": Produced(5, reported=True)}, {"c": Charged(5), None: Charged(7)})
    assert row.difference == 7


def test_a_window_is_consistent_only_without_leases_and_with_the_ledgers_sum() -> None:
    assert Window(10, 0, 100, 10, 0).consistent
    for wrong in (Window(10, 1, 100, 10, 0), Window(10, 0, 100, 11, 0), Window(10, 0, 100, 10, 1)):
        assert not wrong.consistent


def refused(samples: list[tuple[float, int, int]]) -> Row:
    """A refusal between the times 1 and 2, on a limit of 100."""
    seen = Samples()
    seen.seen = samples
    row = Row("race", 1, 100)
    _refusals(row, seen, [Attempt(1.0, 2.0, 429)])
    return row


def test_a_refusal_is_false_when_more_than_2_percent_were_free_all_the_time() -> None:
    assert refused([(0.5, 3, 0), (1.5, 3, 0), (2.5, 3, 0)]).false_refusals == 1
    for at in range(3):
        samples = [(0.5, 3, 0), (1.5, 3, 0), (2.5, 3, 0)]
        samples[at] = (samples[at][0], 2, 0)
        assert refused(samples).false_refusals == 0


def test_a_failure_is_shown_in_the_table_and_makes_the_summary_unmet() -> None:
    good, bad = Row("good", 1), Row("bad", 1, failures=["it leaks"])
    assert summary([good])["met"] is True
    assert summary([good, bad])["met"] is False
    assert table([good, bad]).count("NOT MET") == 1
    assert details([good, bad]) == "bad:\n- NOT MET: it leaks"


def test_results_are_put_between_the_marks_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", "utf-8")
    put_between(page, "new")
    assert page.read_text("utf-8") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    page.write_text("nothing", "utf-8")
    with pytest.raises(ValueError, match="page"):
        put_between(page, "new")
    for real in ("README.md", "docs/quota-proof.md"):
        assert Path(ROOT / real).read_text("utf-8").index(BEGIN) > 0


def test_what_a_listener_got_has_a_name() -> None:
    listeners = [
        Heard(200, last={"final": True}),
        Heard(200, last={"final": True, "aborted": True}),
        Heard(200, last={"error": "x"}),
        Heard(200, left=True),
        Heard(200),
        Heard(404),
    ]
    assert count(each.outcome for each in listeners) == (
        "1 × 404, 1 × aborted, 1 × broken, 1 × done, 1 × error, 1 × left"
    )


def test_the_moved_clock_moves_what_the_quota_sees() -> None:
    assert 999 < (ahead(1000).now(UTC) - datetime.now(UTC)).total_seconds() < 1010
    assert "datetime" in vars(quota)  # the name that prove.clock replaces
