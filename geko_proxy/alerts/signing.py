"""Secrets and signatures of webhooks by the Standard Webhooks specification 1.0, with its own library."""

from __future__ import annotations

import base64
import secrets
from datetime import datetime
from typing import Final
from uuid import UUID

from standardwebhooks import Webhook

PREFIX: Final = "whsec_"
SECRET_BYTES: Final = 32  # the specification wants 24 to 64


def new_secret() -> str:
    """A random secret as receivers put it into their library."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def message_id(delivery_id: UUID) -> str:
    """What receivers know a message by, the same at each attempt; without a full stop, which parts what is signed."""
    return f"msg_{delivery_id.hex}"


def signed_headers(secret: str, name: str, payload: str, at: datetime) -> dict[str, str]:
    """The headers of one attempt. name: the message's id; at: when it is sent, in UTC."""
    return {
        "webhook-id": name,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(name, at, payload),
    }
