"""The cookie of a known device: whose it is, how long, and that it can't be made up."""

from __future__ import annotations

import time

import pytest

from geko_proxy.client_api.devices import COOKIE, LIFE_S, Devices
from geko_proxy.config.people_settings import AuthSettings
from geko_proxy.config.settings import Settings
from geko_proxy.exchange import Reply
from tests.client_api.conftest import Call

EMAIL = "ann@example.org"


@pytest.fixture
def devices() -> Devices:
    return Devices(Settings(auth=AuthSettings(encryption_secret="e" * 40)))


def cookie(devices: Devices, call: Call, **cookies: str) -> str:
    reply = Reply(200)
    devices.set(call(cookies=cookies)[0], reply, EMAIL)
    header = reply.headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict", f"Max-Age={LIFE_S}"} <= set(header.split("; "))
    return header.partition(";")[0].removeprefix(f"{COOKIE}=")


def test_a_device_is_known_for_its_account(devices: Devices, call: Call) -> None:
    value = cookie(devices, call)
    exchange = call(cookies={COOKIE: value})[0]
    device = devices.read(exchange, " Ann@Example.org")
    assert device is not None
    assert devices.read(exchange, "bob@example.org") is None
    assert devices.read(exchange, EMAIL, time.time() + LIFE_S) is None
    renewed = cookie(devices, call, **{COOKIE: value})
    assert devices.read(call(cookies={COOKIE: renewed})[0], EMAIL) == device
    other = Devices(Settings(auth=AuthSettings(encryption_secret="f" * 40)))
    assert other.read(exchange, EMAIL) is None


@pytest.mark.parametrize("change", [0, 33, -1])
def test_a_changed_cookie_is_none(devices: Devices, call: Call, change: int) -> None:
    value = list(cookie(devices, call))
    value[change] = "1" if value[change] != "1" else "2"
    assert devices.read(call(cookies={COOKIE: "".join(value)})[0], EMAIL) is None


@pytest.mark.parametrize("value", ["", ".", "x" * 5000, "é", "0" * 32 + ".9." + "0" * 64])
def test_junk_is_none(devices: Devices, call: Call, value: str) -> None:
    assert devices.read(call(cookies={COOKIE: value})[0], EMAIL) is None
