"""Alerts by mail."""

from __future__ import annotations

import pytest

from geko_proxy.alerts.deliveries import Delivery, DeliveryStore
from geko_proxy.alerts.mails import AlertMails
from geko_proxy.mail import MailError
from tests.alerts.conftest import FAST, Mailbox, Office


class FullQueue(Mailbox):
    """Takes nothing."""

    async def send(self, to: str, subject: str, text: str) -> None:
        raise MailError("too many mails are waiting")


@pytest.fixture
async def delivery(office: Office) -> Delivery:
    store = DeliveryStore(office.database, FAST)
    await office.add(None)
    await office.alert(80)
    (alert,) = await store.take_alerts(1)
    await store.fan_out(alert)
    (taken,) = await store.take(1)
    return taken


async def test_without_mail_it_says_so(office: Office, delivery: Delivery) -> None:
    attempt = await AlertMails(office.database, None, "").send(delivery)
    assert attempt.error == "GEKO sends no mail"


async def test_a_full_queue_is_a_failure_to_try_again(office: Office, delivery: Delivery) -> None:
    attempt = await AlertMails(office.database, FullQueue(), "").send(delivery)
    assert attempt.error == "too many mails are waiting"


async def test_a_name_with_line_breaks_makes_no_header(office: Office, delivery: Delivery) -> None:
    await office.owner.execute("update workspaces set name = E'A\\r\\nBcc: everybody@example.org'")
    mailbox = Mailbox()
    assert (await AlertMails(office.database, mailbox, "").send(delivery)).delivered
    ((_, subject, _),) = mailbox.got
    assert subject == "80 % of the monthly quota of workspace A Bcc: everybody@example.org used"


async def test_who_is_no_admin_gets_none(office: Office, delivery: Delivery) -> None:
    await office.owner.execute("update workspace_members set role = 'member'")
    attempt = await AlertMails(office.database, Mailbox(), "").send(delivery)
    assert attempt.error == "the workspace has no owner or admin"
