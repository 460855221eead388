"""Where a browser may be sent after something is done: only to pages of GEKO's own address."""

from __future__ import annotations

import re
from typing import Final

from geko_proxy.client_api.validation import invalid
from geko_proxy.routing import BadPath, normalise_path

MAX_LENGTH: Final = 2048
PRINTABLE: Final = re.compile(r"[!-\[\]-~]*", re.ASCII)  # neither blanks nor controls nor backslashes
NOT_PAGES: Final = frozenset({"api", "v1", "oauth"})
HOME: Final = "/"


def local_page(value: str | None, field: str = "redirectTo") -> str:
    """A path with query and fragment on this server; HOME when nothing is given.

    Browsers take `//host`, `/\\host` and `/<tab>/host` for other servers, so all that is not a plain path is refused.
    Raises Refused 400 that names the field.
    """
    if not value:
        return HOME
    path = re.split(r"[?#]", value, maxsplit=1)[0]
    try:
        if len(value) > MAX_LENGTH or PRINTABLE.fullmatch(value) is None:
            raise BadPath("not a plain path")
        first = normalise_path(path)[1:].partition("/")[0].lower()
    except BadPath:
        raise invalid({field: "Must be the path of a page here, like /c/new."}) from None
    if first in NOT_PAGES:
        raise invalid({field: "This path is no page."})
    return value
