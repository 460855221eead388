"""`python -m prove.clock <seconds> …`: GEKO with the quota's clock moved ahead, so that a month ends while it runs.

Only the look at the calendar is moved, in filters/quota.py; the database and everything else keep the real time.
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta, tzinfo
from typing import Self

from geko_proxy.__main__ import main
from geko_proxy.filters import quota


def ahead(seconds: float) -> type[datetime]:
    """A datetime whose now() is so much later."""

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + timedelta(seconds=seconds)

    return Ahead


if __name__ == "__main__":
    vars(quota)["datetime"] = ahead(float(sys.argv.pop(1)))
    sys.exit(main())
