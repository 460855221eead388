"""When a secret is too weak to sign or derive anything with."""

from __future__ import annotations

MINIMUM_BYTES = 32  # as long as an HS256 signature: RFC 7518 section 3.2

# LibreChat's .env.example carries these; who leaves them in lets anybody sign LibreChat's tokens.
_PUBLISHED = frozenset(
    {
        "16f8c0ef4a5d391b26034086c628469d3f9f497f08163ab9b40137092f2909ef",
        "eaa5191f2914e30b9387fd84e254e4ba6fc51b4654968a9b0803b456a54b8418",
    }
)


def weakness(secret: str) -> str | None:
    """Say what is wrong with a secret that serving needs; None when nothing is."""
    if not secret:
        return "needed"
    if secret in _PUBLISHED:
        return "is the example value that LibreChat publishes"
    if len(secret.encode()) < MINIMUM_BYTES or len(set(secret)) < 8:
        return f"too weak, it needs at least {MINIMUM_BYTES} random bytes"
    return None
