"""librechat.yaml for LibreChat v0.8.7 behind GEKO (contract §11, and §4.9 for the way to the models)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import yaml

from geko_proxy.config.llm_settings import LlmProviderSettings
from geko_proxy.librechat_setup.plan import ModelChoice, Plan
from geko_proxy.llm.hidden import MEMORY, SUMMARY, TITLE, hidden_name

VERSION: Final = "1.3.11"  # of librechat.yaml's format; LibreChat v0.8.7 warns about any other
KEY: Final = "${GEKO_LLM_KEY}"  # filled in by LibreChat from its environment
# LibreChat wants one id at least, and shows it when GEKO gives it none; it is no model.
NO_MODEL: Final = "unavailable"
CURRENT_MODEL: Final = "current_model"  # LibreChat's word for the model of the chat
# Filled in by LibreChat for each call; the message is the answer's id (contract §4.9).
HEADERS: Final = {
    "x-geko-user": "{{LIBRECHAT_USER_ID}}",
    "x-geko-conversation": "{{LIBRECHAT_BODY_CONVERSATIONID}}",
    "x-geko-message": "{{LIBRECHAT_BODY_MESSAGEID}}",
}
SHARED_BY_NOBODY: Final = {"use": True, "create": True, "share": False, "public": False}
HEAD: Final = """\
# The configuration of a LibreChat v0.8.7 behind GEKO, made by `geko librechat-config`.
# Make it again after [llm] or [[llm_providers]] in GEKO's settings have changed; `geko doctor` checks what runs.
"""

# GEKO tries providers again itself; LibreChat's six tries on top would take minutes until it shows that none has room.
LIBRECHAT_RETRIES: Final = 1


class Part(NamedTuple):
    """Some of the file's keys, and why they are there."""

    comment: str
    values: dict[str, Any]


class _Dumper(yaml.SafeDumper):
    """Indents lists, and never writes anchors."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write_yaml(plan: Plan) -> str:
    """The whole file."""
    return HEAD + "".join(f"\n{_comment(part.comment)}{_dump(part.values)}" for part in parts(plan))


def parts(plan: Plan) -> Iterator[Part]:
    """The file's parts, in order."""
    yield Part("", {"version": VERSION, "cache": True})
    if plan.settings.librechat.secure_images:
        comment = "Pictures only with the cookie that GEKO sends; else anybody with a link sees them."
        yield Part(comment, {"secureImageLinks": True})
    domains = [plan.settings.librechat.shadow_email_domain]
    comment = "Only GEKO makes accounts here, with addresses of librechat.shadow_email_domain."
    yield Part(comment, {"registration": {"socialLogins": [], "allowedDomains": domains}})
    comment = "What reaches beyond one account is off: LibreChat knows no workspaces. Shared links are checked by GEKO."
    yield Part(comment, {"interface": _interface(plan)})
    yield _memory(plan)
    if plan.providers:
        yield from _summaries(plan)
        comment = (
            "Every call to a model goes through GEKO's internal listener, with whose it is in its headers."
        )
    else:
        comment = "LibreChat calls its providers itself: titles and other hidden calls are not metered."
    yield Part(comment, {"endpoints": _endpoints(plan)})


def _interface(plan: Plan) -> dict[str, Any]:
    agents_api = plan.choices.agents_api
    return {
        "marketplace": {"use": False},
        "peoplePicker": {"users": False, "groups": False, "roles": False},
        "multiConvo": False,
        "agents": SHARED_BY_NOBODY,
        "prompts": SHARED_BY_NOBODY,
        "skills": SHARED_BY_NOBODY,
        "mcpServers": {"use": True, "create": False, "share": False, "public": False},
        "memories": plan.choices.memory is not None,
        "remoteAgents": {"use": agents_api, "create": agents_api, "share": False, "public": False},
    }


def _memory(plan: Plan) -> Part:
    choice = plan.choices.memory
    if choice is None:
        return Part("The memory agent reads along with every message; see --memory-model.", _no_memory())
    agent = {"enabled": True, "provider": hidden_name(choice.provider, MEMORY), "model": choice.model}
    comment = "The memory agent reads along with every message, at the expense of its workspace."
    return Part(comment, {"memory": {"disabled": False, "personalize": True, "agent": agent}})


def _no_memory() -> dict[str, Any]:
    return {"memory": {"disabled": True}}


def _summaries(plan: Plan) -> Iterator[Part]:
    choice = _summary_choice(plan)
    if choice is None:
        return
    summary: dict[str, Any] = {"enabled": True, "provider": hidden_name(choice.provider, SUMMARY)}
    if choice.model:
        summary["model"] = choice.model
    comment = "Long conversations are shortened" + ("" if choice.model else " by the model of the chat") + "."
    yield Part(comment, {"summarization": summary})


def _summary_choice(plan: Plan) -> ModelChoice | None:
    """Without a model LibreChat takes the chat's, which only its own provider has: with several, it must be said."""
    if plan.choices.summary is None and len(plan.providers) == 1:
        return ModelChoice(plan.providers[0].name, "")
    return plan.choices.summary


def _endpoints(plan: Plan) -> dict[str, Any]:
    if not plan.providers:
        return {"agents": {"capabilities": ["artifacts"]}, "custom": [_direct()]}
    custom = [_endpoint(plan, provider) for provider in plan.providers]
    custom += [_hidden(plan, provider, TITLE) for provider in plan.providers]
    by_name = {provider.name: provider for provider in plan.providers}
    for kind, choice in ((MEMORY, plan.choices.memory), (SUMMARY, _summary_choice(plan))):
        if choice is not None:
            custom.append(_hidden(plan, by_name[choice.provider], kind))
    # Each of them only calls models of these endpoints, or MCP servers that GEKO allows (contract traps 9, 10).
    capabilities = ["artifacts", "chain", "context", "subagents", "tools"]
    # without the endpoints for hidden work: what an agent does through those would count as a title
    agents = {"allowedProviders": [each.name for each in plan.providers], "capabilities": capabilities}
    endpoints: dict[str, Any] = {"agents": agents, "custom": custom}
    if not _is_public(plan.gateway_url):  # LibreChat refuses a file that lists a public one
        # else LibreChat may take a private address for an attack (SSRF)
        endpoints = {"allowedAddresses": [_host_and_port(plan.gateway_url)], **endpoints}
    return endpoints


def _is_public(url: str) -> bool:
    try:
        return ipaddress.ip_address(urlsplit(url).hostname or "").is_global
    except ValueError:
        return False


def _host_and_port(url: str) -> str:
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def _endpoint(plan: Plan, provider: LlmProviderSettings) -> dict[str, Any]:
    endpoint = _access(plan, provider) | {
        "headers": HEADERS,
        "models": {"default": [NO_MODEL], "fetch": True},
        "titleConvo": True,
        "titleModel": plan.choices.title_model or CURRENT_MODEL,
        "titleEndpoint": hidden_name(provider.name, TITLE),
    }
    if provider.api == "openai":
        # streamUsage: else LibreChat never asks for usage (contract §0.3)
        endpoint["addParams"] = {"streamUsage": True, "maxRetries": LIBRECHAT_RETRIES}
    return {"name": provider.name, **endpoint}


def _hidden(plan: Plan, provider: LlmProviderSettings, kind: str) -> dict[str, Any]:
    headers = {**HEADERS, "x-geko-kind": kind}
    models = {"default": [NO_MODEL], "fetch": False}
    name = hidden_name(provider.name, kind)
    endpoint: dict[str, Any] = {"name": name, **_access(plan, provider), "headers": headers}
    if provider.api == "openai":
        endpoint["addParams"] = {"maxRetries": LIBRECHAT_RETRIES}
    return {**endpoint, "models": models, "titleConvo": False}


def _access(plan: Plan, provider: LlmProviderSettings) -> dict[str, Any]:
    access: dict[str, Any] = {"apiKey": KEY, "baseURL": plan.base_url(provider)}
    if provider.api == "anthropic":
        access["provider"] = "anthropic"  # LibreChat's own client for /v1/messages
    return access


def _direct() -> dict[str, Any]:
    return {
        "name": "Models",
        "apiKey": "${OPENAI_API_KEY}",
        "baseURL": "https://api.openai.com/v1",
        "models": {"default": ["gpt-4o-mini", "gpt-4o"], "fetch": True},
        "titleConvo": True,
        "titleModel": "gpt-4o-mini",
        "addParams": {"streamUsage": True},
    }


def _comment(text: str) -> str:
    return f"# {text}\n" if text else ""


def _dump(values: dict[str, Any]) -> str:
    dumped: str = yaml.dump(
        values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=False
    )
    return dumped
