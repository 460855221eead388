"""The endpoints of LibreChat through which it does what no client sees: titles, memory, summaries.

They are of their own because a header of librechat.yaml is the only way to tell these calls apart, and headers
belong to an endpoint (contract §4.9). Nobody chats with them: they are never shown.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

TITLE: Final = "title"
MEMORY: Final = "memory"
SUMMARY: Final = "summary"
KINDS: Final = (TITLE, MEMORY, SUMMARY)


def hidden_name(provider: str, kind: str) -> str:
    """The name in librechat.yaml of a provider's endpoint for one kind of hidden work."""
    return f"{provider} {kind}"


def hidden_names(providers: Iterable[str]) -> frozenset[str]:
    """All such names, for the providers of [[llm_providers]]."""
    return frozenset(hidden_name(provider, kind) for provider in providers for kind in KINDS)
