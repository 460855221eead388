"""Server-sent events: framing of a byte stream into events, and one event with lazily parsed JSON.

WHATWG HTML §9.2.6 (event stream interpretation). No I/O here.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

MAX_EVENT_BYTES = 64 * 1024 * 1024  # LibreChat's `final` and `sync` lines can be megabytes (contract §4.5)

_USUAL = b"event: message\ndata: "  # how LibreChat begins all events but errors, with data of one line
_USUAL_BYTES = len(_USUAL)
_DATA = b"data: "  # and model providers
_DATA_BYTES = len(_DATA)

_decode = msgspec.json.decode
_encode = msgspec.json.encode


class SseFormatError(ValueError):
    """The stream is no usable event stream (an event larger than MAX_EVENT_BYTES, or JSON that isn't)."""


class SseEvent:
    """One event. `raw` is what goes on the wire, with its closing blank line."""

    __slots__ = ("_data", "_dirty", "_json", "_name", "_raw")

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._name: str | None = None
        self._data: bytes | None = None
        self._json: Any = None
        self._dirty = False

    @classmethod
    def message(cls, value: Any, name: str | None = "message") -> SseEvent:
        """Build an event whose data is `value` as one line of JSON; name None leaves the `event:` line out."""
        return cls.text(_encode(value), name)

    @classmethod
    def text(cls, data: bytes, name: str | None = None) -> SseEvent:
        """Build an event from data bytes; line breaks in it become several `data:` lines."""
        head = b"event: " + name.encode() + b"\n" if name else b""
        lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        return cls(head + b"".join(b"data: " + line + b"\n" for line in lines) + b"\n")

    @property
    def raw(self) -> bytes:
        """The event's bytes, encoded anew if its JSON was set."""
        if self._dirty:
            self._raw = SseEvent.message(self._json, self._name_as_sent()).raw
            self._dirty = False
        return self._raw

    @property
    def name(self) -> str:
        """The event's type; "message" where the stream names none."""
        return self._name_as_sent() or "message"

    @property
    def data(self) -> bytes:
        """The `data` lines joined with line feeds; empty where there are none (a comment)."""
        if self._dirty:
            return _encode(self._json)
        if self._data is None:
            raw = self._raw
            if raw.startswith(_USUAL) and raw.find(b"\n", _USUAL_BYTES) == len(raw) - 2:
                return raw[_USUAL_BYTES:-2]
            if raw.startswith(_DATA) and raw.find(b"\n") == len(raw) - 2:
                return raw[_DATA_BYTES:-2]
            self._parse()
        return self._data or b""

    @property
    def json(self) -> Any:
        """The data as JSON, parsed once and shared by all filters. Change it only by setting it anew.

        Raises SseFormatError if the data is not JSON.
        """
        if self._json is None:
            try:
                self._json = _decode(self.data)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self._json = _decode_halves(self.data)
        return self._json

    @json.setter
    def json(self, value: Any) -> None:
        self._name_as_sent()
        self._json = value
        self._dirty = True

    def _name_as_sent(self) -> str | None:
        if self._name is None and not self._dirty:
            self._parse()
        return self._name or None

    def _parse(self) -> None:
        name, lines = "", []
        for line in self._raw.split(b"\n"):
            field, colon, value = line.partition(b":")
            value = value[1:] if value.startswith(b" ") else value
            if field == b"data":
                lines.append(value)
            elif field == b"event" and (colon or value == b""):
                name = value.decode("utf-8", "replace")
        self._name, self._data = name, b"\n".join(lines)


def _decode_halves(data: bytes) -> Any:
    """Decode JSON with half surrogate pairs, which JavaScript writes when a delta ends inside an emoji."""
    try:
        text = json.dumps(json.loads(data.decode("utf-8", "replace")), ensure_ascii=False)
    except (ValueError, RecursionError) as error:
        raise SseFormatError(f"event data is not JSON: {error}") from error
    return _decode(text.encode("utf-8", "replace"))


class SseParser:
    """Cuts a byte stream, split anywhere, into events. Line ends may be LF, CRLF or CR."""

    __slots__ = ("_after_cr", "_at_start", "_bom", "_max_bytes", "_rest", "_rest_bytes")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._rest: list[bytes] = []
        self._rest_bytes = 0
        self._bom = b""
        self._after_cr = False
        self._at_start = True
        self._max_bytes = max_event_bytes

    def whole(self, data: bytes) -> SseEvent | None:
        """The event that `data` is: one whole event, with nothing unfinished before it. None: `feed` must look."""
        if (
            self._rest
            or self._at_start
            or self._after_cr
            or data.find(b"\n\n") != len(data) - 2
            or data[0] == 10
            or b"\r" in data
        ):
            return None
        return SseEvent(data)

    def feed(self, data: bytes) -> list[SseEvent]:
        """Take bytes as they were read; return the events they complete, in order.

        Raises SseFormatError when an unfinished event has grown over the limit.
        """
        if self._after_cr or b"\r" in data:
            data = self._to_line_feeds(data)
        if self._at_start:
            data = self._without_bom(data)
            if self._at_start:
                return []
        return [SseEvent(block) for block in self._blocks(data)]

    def _blocks(self, data: bytes) -> list[bytes]:
        rest = self._rest
        if rest:
            # an unfinished event of megabytes is joined once, when its end has come
            if b"\n\n" not in data and not (data.startswith(b"\n") and rest[-1].endswith(b"\n")):
                rest.append(data)
                self._rest_bytes += len(data)
                self._check_size()
                return []
            data = b"".join(rest) + data
        *blocks, last = data.split(b"\n\n")
        last = last.lstrip(b"\n")
        self._rest = [last] if last else []
        self._rest_bytes = len(last)
        self._check_size()
        return [block.lstrip(b"\n") + b"\n\n" for block in blocks if block.strip(b"\n")]

    def _check_size(self) -> None:
        if self._rest_bytes > self._max_bytes:
            raise SseFormatError(f"an event is larger than {self._max_bytes} bytes")

    @property
    def unfinished(self) -> bytes:
        """Bytes of an event that was not ended; a client discards them at the end of the stream."""
        return b"".join(self._rest)

    def _to_line_feeds(self, data: bytes) -> bytes:
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
            if not data:
                self._after_cr = False
                return b""
        self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _without_bom(self, data: bytes) -> bytes:
        data = self._bom + data
        self._bom = b""
        if len(data) < 3 and b"\xef\xbb\xbf".startswith(data):
            self._bom = data
            return b""
        self._at_start = False
        return data[3:] if data.startswith(b"\xef\xbb\xbf") else data
