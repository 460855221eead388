"""The checks in their order; what one finds decides whether others make sense."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from geko_proxy.config import Settings
from geko_proxy.config.secrets import weakness
from geko_proxy.doctor import account_checks, chat_check, front_checks, model_checks, own_checks
from geko_proxy.doctor.findings import Finding, Level, Report, geko
from geko_proxy.doctor.patient import Patient
from geko_proxy.doctor.probe import Probe
from geko_proxy.errors import GekoError, UpstreamError
from geko_proxy.librechat_client import LibreChatClient
from geko_proxy.upstream import Upstream

Check = Callable[[Patient], AsyncIterator[Finding]]

FRONT: Final[tuple[Check, ...]] = (
    front_checks.check_config,
    front_checks.check_version,
    front_checks.check_limits,
    front_checks.check_proxy,
)
SIGN_IN: Final[Check] = account_checks.check_accounts
INSIDE: Final[tuple[Check, ...]] = (
    account_checks.check_jwt_secret,
    front_checks.check_domains,  # after GEKO has the first account
    front_checks.check_images,
    account_checks.check_config,
    account_checks.check_role,
    account_checks.check_compression,
    account_checks.check_ban,
    account_checks.check_endpoints,
)
# Said in each report: no request shows them.
UNKNOWN: Final = (
    "whether anybody but GEKO reaches LibreChat's port, or anybody but LibreChat GEKO's port 3003",
    "LIMIT_MESSAGE_IP, LIMIT_MESSAGE_USER and LIMIT_CONCURRENT_MESSAGES, which should be false",
    "CREDS_KEY and CREDS_IV, which must be set and never change",
    "whether titles, memory and summaries say what they are (`geko librechat-config` writes it so)",
)


@dataclass(frozen=True, slots=True)
class ChatOrder:
    """A message to be sent. model: "Provider/model", empty: the first one of the workspace's."""

    workspace_id: UUID
    model: str = ""


async def examine(settings: Settings, chat: ChatOrder | None = None) -> Report:
    """Run every check that makes sense. Changes nothing in GEKO's database but by a chat."""
    report = Report()
    report.checked.append("settings")
    report.add(*own_checks.check_settings(settings))
    for name, check in (("database", own_checks.check_database), ("redis", own_checks.check_redis)):
        report.checked.append(name)
        report.add(*await check(settings))
    if not settings.librechat.url:
        return report  # said by the settings' own check
    upstream = Upstream(settings.librechat.url)
    try:
        patient = Patient(settings, Probe(upstream), LibreChatClient(upstream))
        await _examine_librechat(patient, report, chat)
    finally:
        await upstream.close()
    report.unknown += UNKNOWN
    return report


async def _examine_librechat(patient: Patient, report: Report, chat: ChatOrder | None) -> None:
    report.checked.append("librechat")
    if not await _is_there(patient, report):
        return
    for check in FRONT:
        await _run(check, patient, report)
    if not await _signs_in(patient, report):
        return
    for check in INSIDE:
        await _run(check, patient, report)
    if patient.settings.llm_providers:
        await _examine_calls(patient, report, chat)
    elif chat is not None:
        report.unknown.append("where calls go: without [[llm_providers]] they don't pass GEKO")


async def _signs_in(patient: Patient, report: Report) -> bool:
    """Whether the doctor has an account now; says why not."""
    if any(finding.code in ("registration", "email_login") for finding in report.findings):
        report.unknown.append("everything that only an account sees, until GEKO can make one")
    elif weakness(patient.settings.librechat.shadow_secret):  # anybody could guess the accounts' passwords
        report.unknown.append("everything that only an account sees, until librechat.shadow_secret is strong")
    else:
        await _run(SIGN_IN, patient, report)
    return bool(patient.bearer)


async def _examine_calls(patient: Patient, report: Report, chat: ChatOrder | None) -> None:
    await _run(model_checks.check_models, patient, report)
    if chat is None:
        return

    def check_chat(each: Patient) -> AsyncIterator[Finding]:
        return chat_check.check_chat(each, chat.workspace_id, chat.model)

    await _run(check_chat, patient, report)


async def _is_there(patient: Patient, report: Report) -> bool:
    """Whether a LibreChat answers; reads what it says to anybody."""
    change = geko("librechat.url")
    try:
        seen = await patient.probe.ask("GET", "/api/config")
        ready = await patient.probe.answers("/readyz")
    except UpstreamError as error:
        problem = f"LibreChat does not answer: {error}"
        report.add(Finding("unreachable", problem, "GEKO serves its page and API", change))
        return False
    if seen.status != 200 or "serverDomain" not in seen.object:
        problem = f"what answers at {patient.settings.librechat.url} is no LibreChat"
        report.add(Finding("no_librechat", problem, "GEKO serves its page and API", change))
        return False
    if not ready:
        why = "its database is away, or it is still starting"
        report.add(
            Finding("not_ready", "LibreChat says that it is not ready", why, "look at LibreChat's log")
        )
    patient.config = seen.object
    return True


async def _run(check: Check, patient: Patient, report: Report) -> None:
    name = check.__name__.removeprefix("check_")
    report.checked.append(f"{check.__module__.rpartition('.')[2].removesuffix('_checks')}.{name}")
    try:
        async for finding in check(patient):
            report.add(finding)
    except GekoError as error:
        why = "what it looks at is not known"
        change = "look at LibreChat's log"
        report.add(Finding("check_failed", f"{name} could not be checked: {error}", why, change, Level.FAULT))
