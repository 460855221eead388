"""Alerts by mail to the owners and admins of a workspace."""

from __future__ import annotations

from typing import Final

import msgspec

from geko_proxy.alerts.deliveries import Delivery
from geko_proxy.alerts.events import mail_of
from geko_proxy.alerts.sender import Attempt
from geko_proxy.mail import Mailer, MailError
from geko_proxy.storage.database import Database
from geko_proxy.workspaces.roles import Permission, Role, allowed

MAX_RECIPIENTS: Final = 50

PLACE: Final = """
select w.name, t.time_zone from workspaces w join tenants t on t.tenant_id = w.tenant_id
where w.tenant_id = $1 and w.workspace_id = $2"""
PEOPLE: Final = """
select u.email, m.role from workspace_members m join users u on u.tenant_id = m.tenant_id and u.user_id = m.user_id
where m.tenant_id = $1 and m.workspace_id = $2 order by m.created_at, m.user_id"""


class AlertMails:
    """Hands mails to the mailer, which tries again by itself. mailer: None when mail is off; link: in the mails."""

    def __init__(self, database: Database, mailer: Mailer | None, link: str) -> None:
        self._database = database
        self._mailer = mailer
        self._link = link

    async def send(self, delivery: Delivery) -> Attempt:
        """Mail a delivery. Raises StoreError."""
        if self._mailer is None:
            return Attempt(error="GEKO sends no mail")
        async with self._database.tenant(delivery.tenant_id) as scope:
            place = await scope.fetch_row(PLACE, delivery.workspace_id)
            people = await scope.fetch(PEOPLE, delivery.workspace_id)
        addresses = [row["email"] for row in people if allowed(Role(row["role"]), Permission.WRITE_SETTINGS)]
        if place is None or not addresses:
            return Attempt(error="the workspace has no owner or admin")
        body = msgspec.json.decode(delivery.payload)
        name = " ".join(place["name"].split())  # no line break in a mail's subject
        subject, text = mail_of(body, name, place["time_zone"], self._link)
        try:
            for address in addresses[:MAX_RECIPIENTS]:
                await self._mailer.send(address, subject, text)
        except MailError as error:
            return Attempt(error=str(error))
        return Attempt()
