"""Whether LibreChat gets its models from GEKO's internal listener, for each account its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import quote

from geko_proxy.doctor.findings import MAKE_YAML, Finding
from geko_proxy.doctor.patient import Patient
from geko_proxy.doctor.probe import Probe, Seen
from geko_proxy.errors import UpstreamError
from geko_proxy.librechat_setup.plan import EVERYWHERE
from geko_proxy.upstream import Upstream

NO_ACCOUNT: Final = "unknown_account"


async def check_models(patient: Patient) -> AsyncIterator[Finding]:
    """GET /api/models of the doctor's account against the listener's list for it.

    GEKO knows no such account: it refuses, unless llm.unknown_accounts names who pays. LibreChat must then show nothing
    but the one id that stands in its librechat.yaml for an empty list.
    """
    gateway = Upstream(listener(patient))
    try:
        probe = Probe(gateway)
        if not await probe.answers("/healthz"):
            why = "LibreChat gets no answer from any model"
            change = "start GEKO (`geko serve`) with these settings"
            problem = f"GEKO's internal listener does not answer at {listener(patient)}"
            yield Finding("listener", problem, why, change)
            return
        async for finding in _compare(patient, probe):
            yield finding
    finally:
        await gateway.close()


async def _compare(patient: Patient, probe: Probe) -> AsyncIterator[Finding]:
    listed = await patient.get("/api/models")
    if not isinstance(listed, dict):
        raise UpstreamError("LibreChat gave no list of models")
    for provider in patient.settings.llm_providers:
        path = f"/llm/{quote(provider.name, safe='')}/v1/models"
        user = {"x-geko-user": patient.user_id}
        seen = await probe.ask("GET", path, bearer=patient.settings.llm.key, headers=user)
        if seen.status == 401:
            change = "start GEKO again: it runs with other settings than these"
            yield Finding("llm_key", "GEKO's listener does not take llm.key", "LibreChat's neither", change)
            return
        theirs, ours = listed.get(provider.name), _models(seen)
        right = len(theirs) == 1 if not ours and isinstance(theirs, list) else theirs == ours
        if theirs is not None and not right:
            yield Finding(
                "models",
                f"LibreChat shows other models of {provider.name!r} than GEKO gives it for this account",
                "workspaces see models that they may not use; LibreChat does not ask GEKO, or not by account",
                f"{MAKE_YAML}: baseURL, apiKey, headers and models.fetch of {provider.name!r}",
            )


def listener(patient: Patient) -> str:
    """Where the listener is reached from here."""
    llm = patient.settings.llm
    host = "127.0.0.1" if llm.host in EVERYWHERE else llm.host
    return f"http://[{host}]:{llm.port}" if ":" in host else f"http://{host}:{llm.port}"


def _models(seen: Seen) -> list[str]:
    rows = seen.object.get("data")
    if seen.status != 200 or not isinstance(rows, list):
        return []
    return [str(row.get("id")) for row in rows if isinstance(row, dict)]
