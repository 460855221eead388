"""Where webhooks may go, and where never."""

from __future__ import annotations

import socket
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.alerts.targets import ForbiddenAddress, ForbiddenTarget, Targets, check_form

PUBLIC = ["93.184.216.34", "1.1.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
INNER = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",  # carrier-grade NAT
    "100.100.100.200",  # Alibaba's metadata
    "169.254.169.254",  # everybody's metadata
    "168.63.129.16",  # Azure's platform
    "192.0.0.192",  # Oracle's metadata
    "192.0.2.1",
    "198.18.0.1",
    "203.0.113.5",
    "224.0.0.1",
    "239.1.2.3",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd00:ec2::254",  # AWS's metadata
    "ff02::1",
    "2001:db8::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "2002:7f00:1::",  # 6to4 of 127.0.0.1
    "2002:a00:1::1",
    "2001:0:a00:1::",  # Teredo
    "64:ff9b::7f00:1",  # NAT64 of 127.0.0.1
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "not an address",
    "",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_allowed(address: str) -> None:
    assert Targets().allows(address)


@pytest.mark.parametrize("address", INNER)
def test_inner_addresses_are_not(address: str) -> None:
    assert not Targets().allows(address)


@pytest.mark.parametrize(
    ("network", "address", "allowed"),
    [
        ("10.1.0.0/16", "10.1.2.3", True),
        ("10.1.0.0/16", "10.2.0.1", False),
        ("10.1.0.0/16", "::ffff:10.1.2.3", True),
        ("10.1.0.0/16", "64:ff9b::a01:203", True),
        ("fd00::/8", "fd00::1", True),
        ("fd00::/8", "10.0.0.1", False),
        ("127.0.0.0/8", "127.0.0.1", True),
        ("127.0.0.0/8", "169.254.169.254", False),
        ("2002::/16", "2002:7f00:1::", False),  # what is inside counts too
    ],
)
def test_the_operator_may_allow_a_network(network: str, address: str, allowed: bool) -> None:
    assert Targets([ip_network(network)]).allows(address) is allowed


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_the_same_in_its_ipv6_clothes(address: object) -> None:
    assert Targets().allows(f"::ffff:{address}") == Targets().allows(str(address))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.org",
        "ftp://example.org/",
        "file:///etc/passwd",
        "gopher://example.org",
        "https:/example.org",
        "https://",
        "https:///path",
        "http://example.org/",
        "http://10.0.0.1/",
        "http://127.0.0.1.example.org/",
        "http://localhost.example.org/",
        "https://user@example.org/",
        "https://user:pw@example.org/",
        "https://:pw@example.org/",
        "https://example.org/#part",
        "https://example.org:99999/",
        "https://example.org:x/",
        "https://exa mple.org/",
        "https://example.org/\r\nHost: inner",
        "https://example.org\\@10.0.0.1/",
        "https://[::1",
        "https://exämple.org/",
        "https://example.org/" + "a" * 2000,
    ],
)
def test_what_is_no_address_of_a_webhook(url: str) -> None:
    with pytest.raises(ForbiddenTarget):
        check_form(url)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("https://example.org", ("example.org", 443)),
        ("https://Example.org:8443/a?b=c", ("example.org", 8443)),
        ("http://127.0.0.1:9000/", ("127.0.0.1", 9000)),
        ("http://localhost/", ("localhost", 80)),
        ("http://[::1]:1/", ("::1", 1)),
        ("https://[2606:4700::1]/", ("2606:4700::1", 443)),
    ],
)
def test_what_is_one(url: str, place: tuple[str, int]) -> None:
    assert check_form(url) == place


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "0", "[::1]", "[::ffff:7f00:1]"]
)
async def test_a_loopback_in_any_spelling_is_refused_when_it_is_saved(host: str) -> None:
    targets = Targets()
    with pytest.raises(ForbiddenTarget, match="may reach"):
        await targets.check(f"https://{host}/")
    targets.close()


async def test_a_name_without_an_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr("geko_proxy.alerts.targets.socket.getaddrinfo", look_up)
    targets = Targets()
    with pytest.raises(ForbiddenTarget, match="no address"):
        await targets.check("https://nothing.invalid/")
    targets.close()


def test_no_socket_is_made_for_an_inner_address() -> None:
    info = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("10.0.0.1", 443))
    with pytest.raises(ForbiddenAddress):
        Targets().open_socket(info)
    opened = Targets([ip_network("10.0.0.0/8")]).open_socket(info)
    opened.close()
