"""What may be somebody's picture: an https address, or a small image in a data: URL.

The picture goes into replies of the sign-in, so it is small; and into pages, so it is one of four formats that can't
hold a script. GEKO never fetches an address.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from typing import Final
from urllib.parse import urlsplit

MAX_URL: Final = 2048
MAX_IMAGE_BYTES: Final = 32 * 1024
MAX_PIXELS: Final = 1024  # each way

DATA: Final = re.compile(r"data:image/(png|jpeg|gif|webp);base64,([A-Za-z0-9+/]+={0,2})", re.ASCII)
URL: Final = re.compile(r"https://[!-~]+", re.ASCII)
UNSAFE: Final = re.compile(r"[\"'<>\\`{}|^]")

Size = tuple[int, int]

JPEG_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the rest are tables


def avatar_problem(value: str) -> str | None:
    """What is wrong with a picture; None when nothing is."""
    if value.startswith("data:"):
        return image_problem(value)
    return None if is_picture_url(value) else "Must be an https address or a data: URL of an image."


def is_picture_url(value: str) -> bool:
    """Whether this is a plain https address: no name and password in it, nothing that could leave an attribute."""
    if len(value) > MAX_URL or URL.fullmatch(value) is None or UNSAFE.search(value):
        return False
    try:
        parts = urlsplit(value)
        return bool(parts.hostname) and parts.username is None and parts.port != 0
    except ValueError:
        return False


def image_problem(value: str) -> str | None:
    """What is wrong with a data: URL."""
    if len(value) > MAX_IMAGE_BYTES * 4 // 3 + 64:
        return f"The image may have at most {MAX_IMAGE_BYTES // 1024} KiB."
    found = DATA.fullmatch(value)
    if found is None:
        return "Must be a PNG, JPEG, GIF or WebP image in base64."
    try:
        content = base64.b64decode(found[2], validate=True)
    except binascii.Error:
        return "Must be a PNG, JPEG, GIF or WebP image in base64."
    if len(content) > MAX_IMAGE_BYTES:
        return f"The image may have at most {MAX_IMAGE_BYTES // 1024} KiB."
    size = SIZES[found[1]](content)
    if size is None:
        return f"The content is no {found[1].upper()} image."
    if not all(1 <= side <= MAX_PIXELS for side in size):
        return f"The image may be at most {MAX_PIXELS} pixels wide and high."
    return None


def png_size(content: bytes) -> Size | None:
    """Width and height of a PNG: signature, then the header chunk, at the end the end chunk."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR") or len(content) < 45:
        return None
    if content[-8:-4] != b"IEND":
        return None
    return struct.unpack(">II", content[16:24])


def gif_size(content: bytes) -> Size | None:
    """Width and height of a GIF."""
    if content[:6] not in (b"GIF87a", b"GIF89a") or len(content) < 14 or content[-1:] != b";":
        return None
    return struct.unpack("<HH", content[6:10])


def jpeg_size(content: bytes) -> Size | None:
    """Width and height of a JPEG, from its frame header: segments are followed to there."""
    if not content.startswith(b"\xff\xd8\xff") or not content.rstrip(b"\0").endswith(b"\xff\xd9"):
        return None
    at = 2
    while at + 9 < len(content) and content[at] == 0xFF:
        marker, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4])
        if marker in JPEG_FRAMES:
            height, width = struct.unpack(">HH", content[at + 5 : at + 9])
            return width, height
        if marker == 0xFF:  # a fill byte
            at += 1
        elif length < 2 or marker == 0xDA:
            return None
        else:
            at += 2 + length
    return None


def webp_size(content: bytes) -> Size | None:
    """Width and height of a WebP in each of its three kinds."""
    if len(content) < 30 or content[:4] != b"RIFF" or content[8:12] != b"WEBP":
        return None
    if int.from_bytes(content[4:8], "little") + 8 != len(content):
        return None
    kind = content[12:16]
    if kind == b"VP8X":
        return int.from_bytes(content[24:27], "little") + 1, int.from_bytes(content[27:30], "little") + 1
    if kind == b"VP8L" and content[20] == 0x2F:
        bits = int.from_bytes(content[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and content[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack("<HH", content[26:30])
        return width & 0x3FFF, height & 0x3FFF
    return None


SIZES: Final = {"png": png_size, "gif": gif_size, "jpeg": jpeg_size, "webp": webp_size}
