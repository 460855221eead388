"""The pure parts of the bench: who gets which core, how figures are summed up, and the report without nginx."""

from __future__ import annotations

import json
import re

from bench import completions, llm_report
from bench.calls import FORM
from bench.cores import share_out
from bench.events import delta
from bench.logins import Phase
from bench.measure import figures
from bench.report import Results, summary, table
from bench.streams import SENT
from bench.tokenising import SIZES, by_meter, deltas, eager, is_slow, once
from geko_proxy.metering.tokens import TokenCounter

MACHINE: dict[str, object] = {"cpu": "CPU", "cores": 4, "python": "3.11", "system": "Linux"}


def test_the_measured_proxy_has_a_core_of_its_own_where_there_are_two() -> None:
    for count in (2, 3, 4, 16):
        cores = share_out(range(count))
        assert cores.measured not in (cores.upstream, *cores.load)
    assert not share_out(range(4)).notes
    assert share_out([0]).notes
    assert share_out([0, 1]).notes


def test_the_generator_finds_number_and_time_in_the_upstreams_events() -> None:
    assert SENT.findall(delta(7, 123456789)) == [(b"7", b"123456789")]


def test_the_generator_finds_them_in_a_providers_events_whoever_wrote_them() -> None:
    sent = completions.delta(7, 123456789)
    assert (
        FORM.sent.findall(sent) == FORM.sent.findall(sent.replace(b'":"', b'": "')) == [(b"7", b"123456789")]
    )
    assert not FORM.sent.findall(completions.opening("") + completions.closing_with_usage("", 3))
    assert FORM.final in completions.closing("", 3)


def test_what_a_proxy_adds_is_shown_beside_what_it_is_added_to() -> None:
    alone = {
        "per_s": 500,
        "bad": 0,
        "share": 1.0,
        "p50_ms": 0.1,
        "p99_ms": 1.0,
        "first_p50_ms": 0.2,
        "first_p99_ms": 2,
    }
    calls = {"per_s": 1500, "per_core_s": 3000, "bad": 0}
    found: Results = {
        "llm-direct": {"few": alone},
        "llm-passing": {"few": {**alone, "p50_ms": 0.5, "first_p99_ms": 5.0}, "calls_32": calls},
        "llm-litellm": {"calls_32": {"per_s": 50, "per_core_s": 100, "bad": 0}},
    }
    rounds = {
        "llm-passing": {"calls_32": [calls, {**calls, "per_core_s": 2000}]},
        "llm-litellm": {"calls_32": [{"per_s": 50, "per_core_s": 75}, {"per_s": 40, "per_core_s": 100}]},
    }
    assert llm_report.ratios(rounds) == {"llm-passing_to_litellm": {"calls_32": 30.0}}
    assert llm_report.ratios({"llm-passing": rounds["llm-passing"], "llm-litellm": {}}) == {}
    rows = llm_report.table(found).splitlines()
    assert "0.10 / 1.00 ms | 0.20 / 2.00 ms" in rows[2]
    assert "| 1,500 | 3,000 | 0.40 / 0.00 ms | 0.00 / 3.00 ms |" in rows[3]
    assert len({row.count("|") for row in rows[:5]}) == 1
    assert llm_report.table({"geko": {}}) == ""


def test_figures_of_load_processes_are_summed_up() -> None:
    one = {"count": 300, "bad": 0, "reasons": {}, "latencies_ns": [1_000_000] * 99}
    other = {"count": 100, "bad": 1, "reasons": {"502": 1}, "latencies_ns": [9_000_000]}
    found = figures([one, other], 2.0)
    assert found == {"per_s": 200, "bad": 1, "p50_ms": 1.0, "p99_ms": 9.0, "reasons": {"502": 1}}


def test_the_latest_of_all_events_is_seen() -> None:
    phase = Phase([float(n) for n in range(1000)])
    assert phase.figures() == {"events": 1000, "p50_ms": 500.0, "p99_ms": 990.0, "max_ms": 999.0}


def test_report_takes_the_best_round_and_lives_without_nginx() -> None:
    slow = {"per_s": 100, "bad": 0, "p50_ms": 1.0, "p99_ms": 2.0}
    fast = {**slow, "per_s": 300}
    rounds = {"nginx": {}, "naive": {"json_32": [slow]}, "geko": {"json_32": [slow, fast]}}
    found = summary(rounds, MACHINE, share_out(range(4)), [])
    assert json.loads(json.dumps(found))["results"]["nginx"] is None
    assert found["geko_to_naive"] == {"json_32": 3.0}
    assert found["geko_to_nginx"] is None
    rows = table(found["results"], MACHINE, []).splitlines()
    assert len({len(re.findall(r"\|", row)) for row in rows[:5]}) == 1
    assert "not installed" in rows[2]


def test_the_tokenising_bench_counts_what_it_should() -> None:
    counter = TokenCounter()
    for size in SIZES:
        pieces = deltas(size, 500)
        assert {len(piece) for piece in pieces} == {size}
        assert by_meter(counter, pieces) == eager(counter, pieces) == once(counter, pieces)
    assert is_slow({"by_meter": 3.1, "once": 0.2})
    assert is_slow({"by_meter": 5.9, "once": 2.8})
    assert not is_slow({"by_meter": 5.2, "once": 2.8})
