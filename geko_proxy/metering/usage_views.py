"""The views on what was used, together: reports, sums by day, the ledger's entries, limits as they stand, live."""

from __future__ import annotations

from dataclasses import dataclass

from geko_proxy.metering.limit_states import LimitStates
from geko_proxy.metering.limits import LimitStore
from geko_proxy.metering.live import LiveUsage
from geko_proxy.metering.reconcile import Reconciling
from geko_proxy.metering.reports import Reports
from geko_proxy.metering.standing import Standings
from geko_proxy.metering.usage_days import UsageDays
from geko_proxy.metering.usage_listing import UsageListing
from geko_proxy.storage.database import Database


@dataclass(frozen=True, slots=True)
class UsageViews:
    """Each reads only. standings: of one turn's limits."""

    reports: Reports
    days: UsageDays
    listing: UsageListing
    limit_states: LimitStates
    live: LiveUsage
    standings: Standings
    reconciling: Reconciling

    @classmethod
    def build(cls, database: Database, limits: LimitStore) -> UsageViews:
        """All of them on one database."""
        states = LimitStates(database, limits)
        return cls(
            Reports(database),
            UsageDays(database),
            UsageListing(database),
            states,
            LiveUsage(states),
            Standings(database),
            Reconciling(database),
        )
