"""What counts as an e-mail address, and its one spelling that is stored and compared."""

from __future__ import annotations

import re
from typing import Final

MAX_LENGTH: Final = 254  # RFC 5321, 4.5.3.1.3

# Not RFC 5322: what LibreChat's client accepts, and nothing that could break a header, a log line or a query.
ADDRESS: Final = re.compile(
    r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[a-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?",
    re.ASCII,
)


def normalise_email(text: str) -> str | None:
    """The address in lower case without surrounding blanks, or None when it is none."""
    if not text.isascii():  # the Kelvin sign in lower case is a k: another mailbox would count as this one
        return None
    address = text.strip().lower()
    if len(address) > MAX_LENGTH or ADDRESS.fullmatch(address) is None:
        return None
    return address
