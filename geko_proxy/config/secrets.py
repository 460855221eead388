"""When a secret is too weak to sign or derive anything with."""

from __future__ import annotations

import re

MINIMUM_BYTES = 32  # as long as an HS256 signature: RFC 7518 section 3.2
MINIMUM_GUESSES_LOG10 = 22.0  # zxcvbn's estimate; 32 random hexadecimal digits have 26 or more
MAXIMUM_ESTIMATED = 72  # zxcvbn takes long for longer texts

# Who leaves these in lets everybody sign tokens or open what is sealed.
_PUBLISHED = frozenset(
    {
        # LibreChat's .env.example: JWT_SECRET, JWT_REFRESH_SECRET, CREDS_KEY, CREDS_IV, MEILI_MASTER_KEY
        "16f8c0ef4a5d391b26034086c628469d3f9f497f08163ab9b40137092f2909ef",
        "eaa5191f2914e30b9387fd84e254e4ba6fc51b4654968a9b0803b456a54b8418",
        "f34be427ebb29de8d88c107a71546019685ed8b241d8f2ed00c3df97ad2566f0",
        "e2341419ec3dd3d19b13a1a87fafcbfb",
        "drhyf7zenyr6aluckmnz0eyasoqdl6zxh7s7mkfsffct",
    }
)

# What stands where a secret is still to be put. They count for nothing: what is left must be strong alone. Of six
# letters or more, so that random text hardly ever holds one.
_PLACEHOLDERS = re.compile(
    r"change[-_ ]?(?:me|this|it)?|replace[-_ ]?(?:me|this|it)?|secret|password|passphrase|example|default|placeholder"
    r"|your[-_ ]|insert[-_ ]|dummy[-_ ]|sample|development|production|testing|please|librechat|geko[-_ ]|something"
    r"|a-string|at[-_ ]least|bits[-_ ]long"
)


def weakness(secret: str) -> str | None:
    """Say what is wrong with a secret that serving needs; None when nothing is."""
    if not secret:
        return "needed"
    if secret.strip().lower() in _PUBLISHED:
        return "is the example value that LibreChat publishes"
    if len(secret.encode()) < MINIMUM_BYTES or len(set(secret)) < 8:
        return f"too weak, it needs at least {MINIMUM_BYTES} random bytes"
    left = _PLACEHOLDERS.sub("", secret.lower())
    if len(left) < len(secret) and len(left) < MINIMUM_BYTES:
        return "is a placeholder, put a random value there"
    if guesses_log10(left) < MINIMUM_GUESSES_LOG10:
        return f"too weak, it can be guessed; it needs at least {MINIMUM_BYTES} random bytes"
    return None


def guesses_log10(secret: str) -> float:
    """How many attempts a guesser needs, as a power of ten: repetition, sequences, words and dates are cheap."""
    # its dictionaries take a while to load, and only serving needs them
    from zxcvbn import zxcvbn  # type: ignore[import-untyped]

    return float(zxcvbn(secret[:MAXIMUM_ESTIMATED])["guesses_log10"])
