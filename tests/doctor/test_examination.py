"""The doctor finds each fault, that one alone, and none where there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from geko_proxy.config import FilterSettings, Settings
from geko_proxy.demo.librechat.settings import Limit
from geko_proxy.doctor.examination import examine
from geko_proxy.doctor.findings import Level
from tests.doctor.conftest import changed, librechat, settings_for

FILTERS = ("rate_limit", "auth", "tenant", "workspace", "quota")


async def codes(settings: Settings) -> list[str]:
    return [finding.code for finding in (await examine(settings)).findings]


async def test_finds_nothing_where_all_is_well_and_twice_the_same(good: Settings) -> None:
    for _ in range(2):
        report = await examine(good)
        assert report.findings == []
        assert not report.failed
        assert any("port" in text for text in report.unknown)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"registration": False}, "registration"),
        ({"says": {"emailLoginEnabled": False}}, "email_login"),
        ({"says": {"socialLoginEnabled": True}}, "social_login"),
        ({"says": {"openidAutoRedirect": True}}, "openid_redirect"),
        ({"says": {"passwordResetEnabled": True}}, "password_reset"),
        ({"says": {"emailEnabled": True}}, "mail"),
        ({"says": {"ldap": {"enabled": True}}}, "ldap"),
        ({"says": {"serverDomain": "http://localhost:3080"}}, "server_domain"),
        ({"says": {"buildInfo": {"commit": "0" * 40}}}, "version"),
        ({"login_limit": Limit(7, 300)}, "login_max"),
        ({"register_limit": Limit(5, 3600)}, "register_max"),
        ({"trust_proxy": 2}, "trust_proxy"),
        ({"allowed_domains": None}, "allowed_domains"),
        ({"secure_image_links": False}, "secure_images"),
        ({"jwt_secret": "another"}, "jwt_secret"),
        ({"jwt_refresh_secret": "another"}, "jwt_refresh_secret"),
        ({"says": {"publicSharedLinksEnabled": True}}, "public_links"),
        ({"says": {"allowAccountDeletion": False}}, "account_deletion"),
        ({"says": {"openidReuseTokens": True}}, "openid_reuse"),
        ({"start_balance": 1000.0}, "balance"),
        ({"permissions": {"MARKETPLACE": {"USE": True}}}, "marketplace"),
        ({"permissions": {"PEOPLE_PICKER": {"VIEW_GROUPS": True}}}, "people_picker"),
        ({"permissions": {"AGENTS": {"SHARE_PUBLIC": True}}}, "agents"),
        ({"permissions": {"PROMPTS": {"SHARE": True}}}, "prompts"),
        ({"permissions": {"SKILLS": {"SHARE": True}}}, "skills"),
        ({"permissions": {"MCP_SERVERS": {"CREATE": True}}}, "mcp_servers"),
        ({"permissions": {"REMOTE_AGENTS": {"SHARE": True}}}, "remote_agents"),
        ({"permissions": {"MULTI_CONVO": {"USE": True}}}, "multi_convo"),
        ({"compression": True}, "compression"),
        ({"ban_violations": True}, "ban"),
        ({"capabilities": ("artifacts", "web_search")}, "capabilities"),
    ],
)
async def test_finds_that_fault_alone_in_librechat(dsn: str, fault: dict[str, Any], code: str) -> None:
    async with librechat(**fault) as lc:
        report = await examine(settings_for(lc.url, dsn))
    assert [finding.code for finding in report.findings] == [code]
    (finding,) = report.findings
    assert finding.change
    assert report.failed is (finding.level is Level.FAULT)


async def test_the_address_of_another_domain_leaves_no_account(dsn: str) -> None:
    async with librechat(allowed_domains=None) as lc:
        await examine(settings_for(lc.url, dsn))
        assert lc.accounts.by_email("doctor@other-shadow.geko.invalid") is None


async def test_finds_that_somebody_else_is_the_administrator(dsn: str) -> None:
    async with librechat() as lc:
        lc.accounts.add("Somebody", "first@example.org", "password-1")
        assert await codes(settings_for(lc.url, dsn)) == ["first_account"]


async def test_finds_that_its_accounts_have_other_passwords(dsn: str) -> None:
    async with librechat() as lc:
        settings = settings_for(lc.url, dsn)
        assert await codes(settings) == []
        email = next(account for account in lc.accounts._by_email if account.startswith("s-"))
        lc.accounts._by_email[email].password = "changed"
        assert await codes(settings) == ["accounts"]


@pytest.mark.parametrize(
    ("section", "values", "code"),
    [
        ("librechat", {"secure_images": False}, "secure_images_off"),
        ("librechat", {"shadow_secret": ""}, "settings"),
        ("librechat", {"jwt_secret": ""}, "settings"),
        ("server", {"public_url": "http://chat.example.org"}, "public_url"),
        ("redis", {"url": "redis://127.0.0.1:9"}, "redis"),
        ("database", {"url": ""}, "database"),
        ("database", {"url": "postgresql://geko@127.0.0.1:9/geko"}, "database"),
    ],
)
async def test_finds_faults_of_gekos_own(dsn: str, section: str, values: dict[str, Any], code: str) -> None:
    says = {"serverDomain": values.get("public_url", "https://chat.example.org")}
    async with librechat(says=says) as lc:
        found = await codes(changed(settings_for(lc.url, dsn), section, **values))
    assert found == [code]


@pytest.mark.parametrize(
    ("order", "code"),
    [
        (("auth", "tenant", "quota", "workspace"), "filter_order"),
        (("auth", "tenant", "workspace"), "filters"),
    ],
)
async def test_finds_filters_in_a_wrong_order(good: Settings, order: tuple[str, ...], code: str) -> None:
    filters = tuple(FilterSettings(name=name) for name in order)
    assert await codes(replace(good, filters=filters)) == [code]
    off = tuple(FilterSettings(name=name, enabled=name != "quota") for name in FILTERS)
    assert await codes(replace(good, filters=off)) == ["filters"]


async def test_finds_a_database_that_is_not_migrated(good: Settings, empty_dsn: str) -> None:
    assert await codes(changed(good, "database", url=empty_dsn)) == ["migrations"]


async def test_makes_no_account_whose_password_can_be_guessed(dsn: str) -> None:
    async with librechat() as lc:
        weak = changed(settings_for(lc.url, dsn), "librechat", shadow_secret="change-me")
        report = await examine(weak)
        assert [finding.code for finding in report.findings] == ["settings"]
        assert not lc.accounts._by_id
        assert any("shadow_secret" in text for text in report.unknown)


async def test_finds_that_librechat_is_away(good: Settings) -> None:
    assert await codes(changed(good, "librechat", url="http://127.0.0.1:9")) == ["unreachable"]


async def test_finds_that_it_is_something_else(good: Settings) -> None:
    async def hello(request: web.BaseRequest) -> web.Response:
        return web.json_response(["<html>"])

    runner = web.ServerRunner(web.Server(hello))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        assert await codes(changed(good, "librechat", url=url)) == ["no_librechat"]
    finally:
        await runner.cleanup()


async def test_a_check_without_an_answer_is_no_clean_bill(dsn: str) -> None:
    async with librechat() as lc:
        lc.fail("/api/endpoints", "status", times=5, status=500)
        report = await examine(settings_for(lc.url, dsn))
    assert [finding.code for finding in report.findings] == ["check_failed"]
    assert report.failed
