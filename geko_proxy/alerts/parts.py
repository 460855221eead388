"""What endpoints need to set up webhooks."""

from __future__ import annotations

from dataclasses import dataclass

from geko_proxy.alerts.deliveries import DeliveryStore
from geko_proxy.alerts.targets import Targets
from geko_proxy.alerts.webhooks import WebhookStore


@dataclass(frozen=True, slots=True)
class AlertParts:
    """The stores, and where webhooks may go."""

    webhooks: WebhookStore
    deliveries: DeliveryStore
    targets: Targets
