"""A multipart/form-data body (RFC 7578): short texts are read, and one may be replaced. Files stay as they are."""

from __future__ import annotations

import re
from typing import Final

from geko_proxy.errors import Refused

_BOUNDARY: Final = re.compile(
    r'multipart/form-data\s*;.*?\bboundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE
)
_NAME: Final = re.compile(rb'content-disposition:\s*form-data;[^\r\n]*?\bname="([^"\r\n]*)"', re.IGNORECASE)
_FILE: Final = re.compile(rb"content-disposition:[^\r\n]*\bfilename\*?=", re.IGNORECASE)
MAX_TEXT_BYTES: Final = 16_384


class Form:
    """One body. Raises Refused 400 for what is no form."""

    def __init__(self, body: bytes, content_type: str) -> None:
        found = _BOUNDARY.match(content_type)
        if found is None:
            raise Refused(
                400, "invalid_request", "Content-Type: expected multipart/form-data with a boundary."
            )
        self._body = body
        self._mark = b"--" + (found[1] or found[2]).encode("latin-1", "replace")
        self._texts = self._find()

    def text(self, name: str) -> str | None:
        """The text of a field; None when it is missing, a file, or long."""
        place = self._texts.get(name)
        return None if place is None else self._body[place[0] : place[1]].decode(errors="replace")

    def with_text(self, name: str, text: str) -> bytes:
        """The body with another text in a field that it has."""
        start, end = self._texts[name]
        return self._body[:start] + text.encode() + self._body[end:]

    def _find(self) -> dict[str, tuple[int, int]]:
        """Where the texts of fields stand; of two with a name the first counts, and a form with two is refused."""
        texts: dict[str, tuple[int, int]] = {}
        at = self._body.find(self._mark)
        while at >= 0:
            start = at + len(self._mark)
            following = self._body.find(b"\r\n" + self._mark, start)
            if following < 0:
                break
            head_end = self._body.find(b"\r\n\r\n", start, following)
            if head_end >= 0:
                self._note(texts, self._body[start:head_end], head_end + 4, following)
            at = following + 2
        return texts

    @staticmethod
    def _note(texts: dict[str, tuple[int, int]], head: bytes, start: int, end: int) -> None:
        named = _NAME.search(head)
        if named is None or _FILE.search(head) or end - start > MAX_TEXT_BYTES:
            return
        name = named[1].decode(errors="replace")
        if name in texts:
            raise Refused(400, "invalid_request", f"{name}: the field is there twice.")
        texts[name] = (start, end)
