"""Signatures of the Standard Webhooks specification."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from geko_proxy.alerts.signing import message_id, new_secret, signed_headers

# The specification's own test vector.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NAME = "msg_p5jXN8AQM9LWM0D4loKWxJek"
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_published_vector() -> None:
    at = datetime.fromtimestamp(1614265330, UTC)
    assert signed_headers(SECRET, NAME, '{"test": 2432232314}', at) == {
        "webhook-id": NAME,
        "webhook-timestamp": "1614265330",
        "webhook-signature": SIGNATURE,
    }


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_receiver_accepts_what_we_sign_and_nothing_else(payload: str) -> None:
    secret = new_secret()
    headers = signed_headers(secret, "msg_1", payload, datetime.now(UTC))
    Webhook(secret).verify(payload.encode(), headers, json_parse=False)
    for wrong in (
        {**headers, "webhook-id": "msg_2"},
        {**headers, "webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)},
    ):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(payload.encode(), wrong, json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify(payload.encode(), headers, json_parse=False)


def test_an_old_message_is_refused_by_the_receiver() -> None:
    headers = signed_headers(SECRET, "msg_1", "{}", datetime.now(UTC) - timedelta(minutes=6))
    with pytest.raises(WebhookVerificationError, match="too old"):
        Webhook(SECRET).verify(b"{}", headers)


def test_secrets_are_random_and_as_long_as_the_specification_wants() -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(24 <= len(base64.b64decode(each.removeprefix("whsec_"))) <= 64 for each in secrets)


def test_a_messages_id_has_no_full_stop() -> None:
    assert message_id(UUID(int=1)) == "msg_00000000000000000000000000000001"
