"""How long a prompt will be, before LibreChat or the provider says so: texts are counted, pictures go by their size.

Used for what a turn leases at its start, and for the charge of calls that nobody reports. docs/metering.md tells
operators the same in words.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Any, Final, NamedTuple

MAX_ID_CHARS: Final = 40  # shorter texts of a chat POST are ids and names, not prompts
MAX_SIDE: Final = 20_000  # pixels; sizes come from the client
UNKNOWN_IMAGE_TOKENS: Final = 1024  # what LibreChat takes for a picture whose size it can't read
HEAD_BYTES: Final = 80  # of a picture; sizes stand there
IMAGES: Final = ("image_url", "input_image", "image")  # types of content parts


class Size(NamedTuple):
    """Of a picture, in pixels."""

    width: int
    height: int


def image_tokens(size: Size | None, model: str) -> int:
    """What a picture costs as a part of a prompt, by its provider's published rule; model: its name tells which.

    OpenAI (guide "Images and vision", high detail): fitted into 2048 × 2048, then to a short side of 768; 85, and
    170 for each tile of 512 × 512. Anthropic (guide "Vision"): fitted to a long side of 1568; width × height / 750, at
    most 1600. Google ("Token counting"): 258 for each tile of 768 × 768. Every other model: as OpenAI's.
    """
    if size is None:
        return UNKNOWN_IMAGE_TOKENS
    name = model.lower()
    if "claude" in name or "anthropic" in name:
        width, height = _fitted(size, 1568)
        return min(1600, max(1, ceil(width * height / 750)))
    if "gemini" in name or "gemma" in name:
        return 258 * ceil(size.width / 768) * ceil(size.height / 768)
    width, height = _fitted(size, 2048)
    shrink = min(1.0, 768 / min(width, height))
    return 85 + 170 * ceil(width * shrink / 512) * ceil(height * shrink / 512)


def attached_image_tokens(body: Mapping[str, Any], model: str) -> int:
    """The pictures attached to a chat POST: `files`, whose sizes LibreChat's client repeats (contract §4.1)."""
    files = body.get("files")
    return sum(
        image_tokens(size_of(file.get("width"), file.get("height")), model)
        for file in (files if isinstance(files, list) else ())
        if isinstance(file, dict) and str(file.get("type", "")).startswith("image/")
    )


def long_texts(value: Any) -> list[str]:
    """Every text in a body that is longer than an id, wherever it is: all of them may reach the model."""
    found, waiting = [], [value]
    while waiting:  # not by recursion: how deep it goes is the client's choice
        each = waiting.pop()
        if isinstance(each, str):
            found += [each] if len(each) > MAX_ID_CHARS else []
        elif isinstance(each, dict):
            text = each.get("text")
            found += [text] if isinstance(text, str) else []
            waiting.extend(inner for inner in each.values() if inner is not text or not isinstance(text, str))
        elif isinstance(each, list):
            waiting.extend(each)
    return found


def agents_api_prompt(body: Mapping[str, Any], model: str) -> tuple[list[str], int]:
    """The texts of an Agents API request, and the tokens of its pictures.

    Everything but the model's name may reach the model: messages, input items, instructions, tools. Pictures come as
    data URLs; counted as text, one would cost a million tokens.
    """
    texts: list[str] = []
    tokens = 0
    for name, value in body.items():
        if name not in ("model", "stream", "stream_options", "conversation_id", "parent_message_id"):
            for found in _walk(value):
                if isinstance(found, str):
                    texts.append(found)
                else:
                    tokens += image_tokens(found.size, model)
    return texts, tokens


class _Image(NamedTuple):
    size: Size | None


def _walk(value: Any) -> Iterator[str | _Image]:
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            yield _Image(size_of_data(each)) if each.startswith("data:image/") else each
        elif isinstance(each, dict):
            if each.get("type") in IMAGES:
                yield _Image(size_of_data(_url_of(each)))
            else:
                waiting.extend(each.values())
        elif isinstance(each, list):
            waiting.extend(each)


def _url_of(part: Mapping[str, Any]) -> str:
    """The URL of a picture's part: OpenAI's two shapes, and Anthropic's source."""
    found = part.get("image_url")
    if isinstance(found, dict):
        found = found.get("url")
    source = part.get("source")
    if found is None and isinstance(source, dict):
        found = "data:image/x;base64," + str(source.get("data", ""))[: 4 * HEAD_BYTES]
    return found if isinstance(found, str) else ""


def size_of(width: Any, height: Any) -> Size | None:
    """A size that the client names; None for what can't be one."""
    sides: Sequence[Any] = (width, height)
    if any(isinstance(side, bool) or not isinstance(side, int | float) for side in sides):
        return None
    if not all(1 <= side <= MAX_SIDE for side in sides):
        return None
    return Size(int(width), int(height))


def size_of_data(url: str) -> Size | None:
    """The size that stands in the head of a PNG, GIF, WebP or JPEG in a base64 data URL; None: not to be found."""
    head, comma, data = url[:256].partition(";base64,")
    if not comma or not head.startswith("data:"):
        return None
    start = len(head) + len(comma)
    data = url[start : start + 4 * 16_384]
    try:
        raw = base64.b64decode(data[: len(data) // 4 * 4])
    except binascii.Error:
        return None
    return _png(raw) or _gif(raw) or _webp(raw) or _jpeg(raw)


def _png(raw: bytes) -> Size | None:
    if not raw.startswith(b"\x89PNG\r\n\x1a\n") or len(raw) < 24:
        return None
    return size_of(int.from_bytes(raw[16:20]), int.from_bytes(raw[20:24]))


def _gif(raw: bytes) -> Size | None:
    if not raw.startswith((b"GIF87a", b"GIF89a")) or len(raw) < 10:
        return None
    return size_of(int.from_bytes(raw[6:8], "little"), int.from_bytes(raw[8:10], "little"))


def _webp(raw: bytes) -> Size | None:
    """RFC 9649 §2.4–2.7: the canvas of VP8X, or the frame of VP8 and VP8L."""
    if raw[:4] != b"RIFF" or raw[8:12] != b"WEBP" or len(raw) < 30:
        return None
    kind = raw[12:16]
    if kind == b"VP8X":
        return size_of(int.from_bytes(raw[24:27], "little") + 1, int.from_bytes(raw[27:30], "little") + 1)
    if kind == b"VP8L":
        bits = int.from_bytes(raw[21:25], "little")
        return size_of((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    width, height = int.from_bytes(raw[26:28], "little"), int.from_bytes(raw[28:30], "little")
    return size_of(width & 0x3FFF, height & 0x3FFF)


def _jpeg(raw: bytes) -> Size | None:
    """Walks the segments to the frame header (ITU T.81 §B.2.2): SOF0–SOF15 without DHT, JPG and DAC."""
    if not raw.startswith(b"\xff\xd8"):
        return None
    at = 2
    while at + 9 <= len(raw) and raw[at] == 0xFF:
        marker = raw[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return size_of(int.from_bytes(raw[at + 7 : at + 9]), int.from_bytes(raw[at + 5 : at + 7]))
        at += 2 + int.from_bytes(raw[at + 2 : at + 4])
    return None


def _fitted(size: Size, longest: int) -> tuple[float, float]:
    shrink = min(1.0, longest / max(size))
    return size.width * shrink, size.height * shrink
