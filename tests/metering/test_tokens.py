"""The streamed count is the count of the whole text, however it was split."""

from __future__ import annotations

import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.metering.tokens import LONG_RUN_CHARS, TokenCounter, last_cut, load_count

COUNTER = TokenCounter()

# Where the splitting pattern has its corners: contractions, digits in threes, white space before words, CJK, marks.
LATIN = "a The don't 's ' LL 1 2345 . ... / ( ) é e\u0301 ß _ - x=y; ² [tool_calls] {\"q\": == ﬁ Ⅷ".split(" ")
OTHER = "日本語 。 、 😀 👨\u200d👩\u200d👧 \u200d ไทย 한국어 \ud83d".split(" ")
SPACES = [" ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2028", "\x1c"]
CORNERS = st.lists(st.sampled_from([*LATIN, *OTHER, *SPACES]), max_size=60).map("".join)
TEXTS = CORNERS | st.text(max_size=200)


def split(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[a:b] for a, b in pairwise(edges)]


@given(TEXTS, st.lists(st.integers(0, 10_000), max_size=60))
def test_every_piece_returns_the_exact_total_so_far(text: str, cuts: list[int]) -> None:
    stream, so_far = COUNTER.stream(), ""
    for piece in split(text, cuts):
        so_far += piece
        assert stream.add(piece) == COUNTER.count(so_far)
    assert stream.total() == COUNTER.count(text)


@given(TEXTS, TEXTS)
def test_a_cut_never_changes_the_count_whatever_follows(text: str, following: str) -> None:
    text = text + " " * 60  # long enough for every kind of cut
    cut = last_cut(text)
    if cut:
        whole = text + following
        assert COUNTER.count(whole[:cut]) + COUNTER.count(whole[cut:]) == COUNTER.count(whole)


@given(
    st.sampled_from(["=", "ab", "日本", "A7f", " ", "\n", "'"]),
    st.integers(LONG_RUN_CHARS // 2, 5 * LONG_RUN_CHARS),
    st.integers(1, 40),
    CORNERS,
)
def test_a_run_without_a_cut_ends_with_the_exact_total(unit: str, times: int, size: int, ending: str) -> None:
    text = unit * times + ending
    stream = COUNTER.stream()
    for start in range(0, len(text), size):
        so_far = stream.add(text[start : start + size])
        assert so_far >= 0
    assert stream.total() == COUNTER.count(text)


def test_the_estimate_inside_a_long_run_stays_near_the_truth() -> None:
    stream, text = COUNTER.stream(), ""
    for n in range(4000):
        piece = f"{n * 7919:x}"
        text += piece
        estimate = stream.add(piece)
        if n % 500 == 499:
            assert abs(estimate - COUNTER.count(text)) <= 0.35 * COUNTER.count(text)
    assert stream.total() == COUNTER.count(text)


def test_half_a_surrogate_pair_is_counted_like_the_replacement_character() -> None:
    assert COUNTER.count("a \ud83d") == COUNTER.count("a \ufffd")
    stream = COUNTER.stream()
    stream.add("\ud83d")
    assert stream.add("\ude00") == COUNTER.count("😀")


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("hello world", 2), ("the quick brown fox", 4)])
def test_known_counts(text: str, tokens: int) -> None:
    assert COUNTER.count(text) == tokens


def test_loading_the_vocabulary_leaves_the_slow_python_package_out() -> None:
    load_count.cache_clear()
    load_count()
    assert "bpe_openai" not in sys.modules


def test_a_missing_wheel_is_an_import_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    load_count.cache_clear()
    with pytest.raises(ImportError, match="bpe-openai"):
        load_count()
    monkeypatch.undo()
    load_count.cache_clear()
