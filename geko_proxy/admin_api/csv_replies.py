"""Replies as CSV (RFC 4180): streamed, and harmless in a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Final

from multidict import CIMultiDict

from geko_proxy.client_api.validation import invalid
from geko_proxy.errors import StoreError, UpstreamError
from geko_proxy.exchange import Exchange, Reply

MEDIA: Final = "text/csv"
FORMULA: Final = "=+-@|%"  # OWASP, "CSV Injection"; full-width look-alikes count as well in some programs
FULL_WIDTH: Final = "＝＋－＠"
RANGES: Final = ("application/*", "*/*")


def wants_csv(exchange: Exchange, asked: Mapping[str, str]) -> bool:
    """Whether the caller wants CSV: by `?format=`, else by Accept. Raises Refused 400 for another format."""
    named = asked.get("format")
    if named is not None:
        if named not in ("csv", "json"):
            raise invalid({"format": "Must be csv or json."})
        return named == "csv"
    weights = accepted(exchange.request.headers.get("Accept", ""))
    weight, ranges = weights.get(MEDIA, 0.0), max(weights.get(name, 0.0) for name in RANGES)
    return weight > weights.get("application/json", 0.0) and weight >= ranges


def accepted(header: str) -> dict[str, float]:
    """The media ranges of an Accept header with their weights (RFC 9110 §12.5.1); what can't be read weighs nothing."""
    found: dict[str, float] = {}
    for part in header.split(",")[:50]:
        name, *parameters = (piece.strip() for piece in part.lower().split(";"))
        weight = 1.0
        for each in parameters:
            if each.startswith("q="):
                try:
                    weight = float(each[2:])
                except ValueError:
                    weight = 0.0
        found[name] = weight if 0.0 <= weight <= 1.0 else 0.0
    return found


def cell(value: Any) -> Any:
    """A value as it stands in a cell. Text that a spreadsheet would take for a formula gets an apostrophe first."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return value
    text = value.replace("\x00", "")
    start = text.lstrip()[:1]
    risky = start and start in FORMULA + FULL_WIDTH
    return f"'{text}" if risky or text[:1] in ("\t", "\r", "\n") else text


class Number(str):
    """Text that is a number of our own making, with a minus sign perhaps: it is no formula."""

    __slots__ = ()


def lines(rows: Iterable[Sequence[Any]]) -> bytes:
    """Rows as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerows(
        [str(value) if isinstance(value, Number) else cell(value) for value in row] for row in rows
    )
    return out.getvalue().encode("utf-8", "replace")


class CsvSource:
    """The body: a header line, then pages of rows as they are read. The client's pace is the pace of reading."""

    def __init__(self, header: Sequence[str], pages: AsyncIterator[Iterable[Sequence[Any]]]) -> None:
        self._first: bytes | None = lines([header])
        self._pages = pages

    async def read_chunk(self) -> bytes:
        """The next lines; empty at the end. Raises UpstreamError when the database is gone: the reply breaks off."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        try:
            async for page in self._pages:
                if chunk := lines(page):
                    return chunk
        except StoreError as error:
            raise UpstreamError(str(error)) from error
        return b""

    def close(self) -> None:
        """Nothing is held between two pages."""


def csv_reply(name: str, header: Sequence[str], pages: AsyncIterator[Iterable[Sequence[Any]]]) -> Reply:
    """200 with a file. name: letters, digits, dots and dashes, without the extension."""
    headers = {
        "Content-Type": f"{MEDIA}; charset=utf-8; header=present",
        "Content-Disposition": f'attachment; filename="{name}.csv"',
        "Cache-Control": "no-store",
        "Vary": "Accept",
    }
    return Reply(200, CIMultiDict(headers), source=CsvSource(header, pages))
