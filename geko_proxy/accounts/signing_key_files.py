"""Signing keys that the operator gives as PEM files.

The last private key by file name signs; all others only verify. A name that begins with `next-` does not sign yet: put
such a file onto every instance first, rename it later.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Final

from geko_proxy.accounts.signing_keys import BadKey, SigningKey, read_pem

MAX_BYTES: Final = 64 * 1024
NEXT: Final = "next-"

Stamp = tuple[tuple[str, int, int], ...]


def stamp(path: Path) -> Stamp:
    """What changes when a file does: names, times and sizes. Blocks."""
    found = []
    for file in files(path):
        status = file.stat()
        found.append((file.name, status.st_mtime_ns, status.st_size))
    return tuple(found)


def load(path: Path) -> list[SigningKey]:
    """All keys of a folder's `*.pem` files, or of one file. Raises BadKey, naming the file. Blocks."""
    keys: list[SigningKey] = []
    for number, file in enumerate(files(path)):
        try:
            content = file.read_bytes()
        except OSError as error:
            raise BadKey(f"{file.name} can't be read: {error.strerror}") from None
        if len(content) > MAX_BYTES:
            raise BadKey(f"{file.name} is too large for a key")
        try:
            key = read_pem(content)
        except BadKey as error:
            raise BadKey(f"{file.name} {error}") from None
        signs_from = inf if file.name.startswith(NEXT) else float(number)
        keys.append(replace(key, signs_from=signs_from, of_operator=True))
    return keys


def files(path: Path) -> list[Path]:
    """The files in the order of their names. Raises BadKey when there are none."""
    try:
        found = sorted(path.glob("*.pem")) if path.is_dir() else [path]
        if not found or not all(file.is_file() for file in found):
            raise BadKey(f"{path}: there is no such PEM file, or no *.pem file in that folder")
    except OSError as error:
        raise BadKey(f"{path} can't be read: {error.strerror}") from None
    return found
