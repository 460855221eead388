"""Password hashes: scrypt, with its parameters in the stored text, computed outside the event loop."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import unicodedata
from dataclasses import dataclass
from typing import Final

from geko_proxy.accounts.hashing_pool import HashingPool

FORMAT: Final = re.compile(
    r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)", re.ASCII
)
SALT_BYTES: Final = 16
KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Cost:
    """The parameters of scrypt: 2**log_n blocks of 128*r bytes, p times."""

    log_n: int = 15
    r: int = 8
    p: int = 3


COST = Cost()  # OWASP's Password Storage Cheat Sheet, the row with 32 MiB

# One for the whole process: it bounds what all sign-ins together may take of the machine.
_pool = HashingPool()


def configure(cost: Cost, pool: HashingPool) -> tuple[Cost, HashingPool]:
    """Hash with this cost in this pool from now on; returns what was before, for when this GEKO ends."""
    global COST, _pool
    before, COST, _pool = (COST, _pool), cost, pool
    return before


async def hash_password(password: str, *, rank: int = 0) -> str:
    """The text to store for a password: `$scrypt$ln=15,r=8,p=3$<salt>$<key>`, base64 without padding.

    rank: as for `HashingPool.run`. Raises Refused 503 when too many are waiting.
    """
    salt = secrets.token_bytes(SALT_BYTES)
    key = await derive(password, salt, COST, rank)
    return f"$scrypt$ln={COST.log_n},r={COST.r},p={COST.p}${encode(salt)}${encode(key)}"


async def verify_password(password: str, stored: str | None, *, rank: int = 0) -> bool:
    """Whether a password fits the stored text.

    stored: None for an unknown user or one without a password: the same work is done, so the time
    an answer takes does not tell which e-mail addresses exist. rank: as for `HashingPool.run`.
    Raises ValueError for a damaged text, Refused 503 when too many are waiting.
    """
    if stored is None:
        await derive(password, bytes(SALT_BYTES), COST, rank)
        return False
    cost, salt, key = parse(stored)
    return hmac.compare_digest(await derive(password, salt, cost, rank), key)


def needs_rehash(stored: str) -> bool:
    """Whether the text was made with other parameters than today's."""
    return parse(stored)[0] != COST


def parse(stored: str) -> tuple[Cost, bytes, bytes]:
    """Cost, salt and key of a stored text. Raises ValueError, which never contains the text."""
    match = FORMAT.fullmatch(stored)
    if match is None:
        raise ValueError("not a password hash of GEKO")
    log_n, r, p = (int(number) for number in match.group(1, 2, 3))
    return Cost(log_n, r, p), decode(match[4]), decode(match[5])


async def derive(password: str, salt: bytes, cost: Cost, rank: int = 0) -> bytes:
    """The scrypt key of a password, computed in a thread (hashlib releases the interpreter lock)."""
    return await _pool.run(scrypt, password, salt, cost, rank=rank)


def scrypt(password: str, salt: bytes, cost: Cost) -> bytes:
    """The scrypt key of a password. The same characters, composed or not, give the same key."""
    secret = unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")
    n = 2**cost.log_n
    max_memory = 128 * cost.r * (n + cost.p + 2) + 1024
    return hashlib.scrypt(secret, salt=salt, n=n, r=cost.r, p=cost.p, maxmem=max_memory, dklen=KEY_BYTES)


def encode(value: bytes) -> str:
    """base64 without padding."""
    return base64.b64encode(value).decode().rstrip("=")


def decode(text: str) -> bytes:
    """The bytes of a base64 text without padding."""
    return base64.b64decode(text + "=" * (-len(text) % 4))
