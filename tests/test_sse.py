"""Framing must not depend on how the bytes were split, and must follow WHATWG HTML §9.2.6."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.sse import SseEvent, SseFormatError, SseParser

TRANSCRIPTS = Path(__file__).resolve().parents[2] / "shared" / "librechat-transcripts"

line = st.binary(max_size=20).filter(
    lambda b: b"\r" not in b and b"\n" not in b and not b.startswith(b"\xef")
)
field = st.sampled_from([b"data", b"event", b"id", b"", b"data:x"])
event_lines = st.lists(st.tuples(field, line).map(lambda p: p[0] + b": " + p[1]), min_size=1, max_size=4)
line_end = st.sampled_from([b"\n", b"\r\n", b"\r"])


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """A stream with mixed line ends, and the events it holds."""
    stream, events = b"", []
    for lines in draw(st.lists(event_lines, max_size=6)):
        for each in lines:
            stream += each + draw(line_end)
        # a lone CR before an LF would be one line end
        blank = draw(line_end)
        if stream.endswith(b"\r") and blank == b"\n":
            blank = b"\r\n"
        stream += blank
        events.append(b"".join(each + b"\n" for each in lines) + b"\n")
    if draw(st.booleans()):
        stream = b"\xef\xbb\xbf" + stream
    return stream, events


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(at)]


@given(streams(), st.lists(st.integers(0, 400), max_size=30))
def test_any_split_gives_the_same_events(stream: tuple[bytes, list[bytes]], cuts: list[int]) -> None:
    data, expected = stream
    parser = SseParser()
    found = [event.raw for part in split(data, cuts) for event in parser.feed(part)]
    assert found == expected


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_any_bytes_are_framed_without_an_error(parts: list[bytes]) -> None:
    parser = SseParser()
    for part in parts:
        for event in parser.feed(part):
            assert event.raw.endswith(b"\n\n")
            assert isinstance(event.name, str)
            assert isinstance(event.data, bytes)


def test_a_recorded_answer_is_framed_byte_for_byte() -> None:
    body = (TRANSCRIPTS / "21_chat_stream.txt").read_bytes().partition(b"### body\n")[2]
    whole = b"".join(event.raw for event in SseParser().feed(body))
    one_by_one = SseParser()
    assert b"".join(e.raw for i in range(len(body)) for e in one_by_one.feed(body[i : i + 1])) == whole
    assert whole.count(b"on_message_delta") == 12
    assert SseParser().feed(body)[-1].json["final"] is True


def test_fields_are_read_as_the_standard_says() -> None:
    (event,) = SseParser().feed(b"event:note\ndata: first\ndata:second\n: a comment\nid: 1\n\n")
    assert (event.name, event.data) == ("note", b"first\nsecond")
    (comment,) = SseParser().feed(b": keep-alive\n\n")
    assert (comment.name, comment.data) == ("message", b"")


def test_an_event_is_encoded_anew_only_when_its_json_was_set() -> None:
    raw = b'event: message\ndata: {"a": 1}\n\n'
    event = SseEvent(raw)
    assert event.json == {"a": 1}
    assert event.raw == raw
    event.json = {"a": 2}
    assert event.raw == b'event: message\ndata: {"a":2}\n\n'
    error = SseEvent(b"event: error\ndata: {}\n\n")
    error.json = {"error": "x"}
    assert error.raw == b'event: error\ndata: {"error":"x"}\n\n'


def test_half_an_emoji_is_read_and_passed_on_untouched() -> None:
    raw = b'data: {"text":"wave \\ud83d"}\n\n'
    event = SseEvent(raw)
    assert event.json == {"text": "wave ?"}
    assert event.raw == raw


def test_data_that_is_no_json_is_said_to_be_so() -> None:
    with pytest.raises(SseFormatError):
        _ = SseEvent(b"data: [DONE\n\n").json


def test_an_endless_event_is_refused() -> None:
    parser = SseParser(max_event_bytes=1000)
    for _ in range(9):
        parser.feed(b"data: " + b"x" * 100)
    with pytest.raises(SseFormatError):
        parser.feed(b"x" * 100)


def test_an_unfinished_event_is_not_given_out() -> None:
    parser = SseParser()
    assert parser.feed(b"data: 1\n\ndata: 2") != []
    assert parser.unfinished == b"data: 2"
