"""Decides what one account may use under its workspace's configuration: models, agents, specs, MCP servers.

Denies by default: what can't be looked into is refused wherever the workspace has a list.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from geko_proxy.errors import Refused
from geko_proxy.policy.librechat_view import Caller, LibreChatView, UnresolvableAgent
from geko_proxy.policy.selection import (
    AGENTS,
    BUILT_IN_ENDPOINTS,
    AgentChoice,
    BadSelection,
    Choice,
    Model,
    SpecChoice,
    added_conversations,
    clean_chat,
    pick_model,
    read_choice,
)
from geko_proxy.workspaces.config import WorkspaceConfig

ADDED: Final = "addedConvo."


class Guard:
    """The checks for one exchange. Each raises Refused 403 for what is not allowed, 400 for what makes no sense."""

    def __init__(self, config: WorkspaceConfig, view: LibreChatView, caller: Caller) -> None:
        self.config = config
        self.view = view
        self.caller = caller
        self.restricted = config.lists_models or config.mcp_servers is not None

    async def check_chat(
        self, body: Mapping[str, Any], path_endpoint: str | None
    ) -> tuple[dict[str, Any], str]:
        """Check a chat message; return its body as LibreChat may have it, and "Endpoint/model" of the answer.

        path_endpoint: the endpoint that the path names; LibreChat believes the body alone (contract trap 11), so the
        two must agree.
        """
        try:
            cleaned = clean_chat(_with_endpoint(body, path_endpoint), self.config.allows_mcp)
            choice = read_choice(cleaned)
            added = [read_choice(each, ADDED) for each in added_conversations(cleaned)]
        except BadSelection as error:
            raise bad_selection(error) from None
        if path_endpoint is not None and choice.endpoint != path_endpoint:
            raise bad_selection("endpoint is another one in the body than in the path")
        if choice.endpoint != AGENTS and (choice.endpoint is None or choice.model is None):
            choice = await self._complete(cleaned, choice)
        model = await self._check_main(choice)
        for each in added:
            await self._check_added(each)
        return cleaned, model

    async def check_data(self, choice: Choice) -> None:
        """Check what stored data (a preset, a favourite) selects, as far as it selects anything."""
        if not self.restricted:
            return
        if choice.agent_id is not None:
            await self.check_agents([choice.agent_id])
        if choice.model is not None and choice.endpoint not in (None, AGENTS):
            self.check_model(str(choice.endpoint), choice.model)
        if choice.spec is not None:
            await self._check_spec(choice.spec, None)

    def check_model(self, endpoint: str, model: str) -> None:
        """Check one model of an endpoint."""
        if not self.config.allows_model(endpoint, model):
            raise model_refused(endpoint, model)

    def check_servers(self, names: Iterable[str]) -> None:
        """Check MCP servers that were named on purpose."""
        for name in names:
            if not self.config.allows_mcp(name):
                raise Refused(
                    403,
                    "mcp_server_not_allowed",
                    f"The MCP server {name} is not available in this workspace.",
                )

    async def check_agents(self, agent_ids: Iterable[str]) -> list[AgentChoice]:
        """Check stored agents and all that they lead to; return what they select, the first one first."""
        try:
            found = await self.view.reachable(self.caller, list(agent_ids))
        except UnresolvableAgent:
            raise agent_refused() from None
        for each in found:
            self.check_choice(each)
        return found

    def check_choice(self, choice: AgentChoice) -> None:
        """Check what one agent selects by itself."""
        if self.config.lists_models and choice.parameters:
            raise agent_refused(f"it sets the model parameters {', '.join(choice.parameters)}")
        if choice.model is not None and choice.endpoint is not None:
            self.check_model(choice.endpoint, choice.model)
        self.check_servers(choice.servers)

    async def check_spec_choice(self, spec: SpecChoice) -> None:
        """Check what a model spec selects."""
        if not self.restricted:
            return
        if spec.opaque:
            raise _spec_refused(spec.name)
        self.check_servers(spec.servers)
        choice = spec.choice
        if choice.agent_id is not None:
            await self.check_agents([choice.agent_id])
        elif choice.endpoint == AGENTS:
            raise _spec_refused(spec.name)
        elif choice.endpoint is None or choice.model is None:
            if self.config.lists_models:
                raise _spec_refused(spec.name)
        else:
            self.check_model(choice.endpoint, choice.model)

    async def allows_agent(self, agent_id: str) -> bool:
        """Whether an agent may be used, as far as this workspace has lists."""
        return await self.allows_data(Choice(agent_id=agent_id))

    async def allows_data(self, choice: Choice) -> bool:
        """Whether what stored data selects may be used."""
        try:
            await self.check_data(choice)
        except Refused:
            return False
        return True

    async def allows_spec(self, spec: SpecChoice) -> bool:
        """Whether a model spec may be used."""
        try:
            await self.check_spec_choice(spec)
        except Refused:
            return False
        return True

    async def _complete(self, body: dict[str, Any], choice: Choice) -> Choice:
        """Fill in the model of a message that names none, or only half of it."""
        picked = None
        if choice.spec is not None:
            picked = await self._model_of_spec(choice)
        if picked is None:
            available = await self.view.models(self.caller)
            picked = pick_model(self.config, available, choice.endpoint, choice.model)
        if picked is None:
            if choice.model is not None:
                raise model_refused(choice.endpoint or "any", choice.model)
            raise Refused(403, "no_model", "No model is available in this workspace.")
        body["endpoint"], body["model"] = picked
        if picked.endpoint not in BUILT_IN_ENDPOINTS and not body.get("endpointType"):
            body["endpointType"] = "custom"  # LibreChat can't read the body otherwise
        return Choice(picked.endpoint, picked.model, choice.agent_id, choice.spec)

    async def _model_of_spec(self, choice: Choice) -> Model | None:
        spec = (await self.view.specs(self.caller)).by_name.get(str(choice.spec))
        if spec is None or spec.choice.endpoint is None or spec.choice.model is None:
            return None
        model = Model(spec.choice.endpoint, spec.choice.model)
        fits = choice.endpoint in (None, model.endpoint) and choice.model in (None, model.model)
        return model if fits else None

    async def _check_main(self, choice: Choice) -> str:
        enforced = None
        if choice.spec is not None and self.restricted:
            enforced = await self._check_spec(choice.spec, choice.endpoint)
        if choice.endpoint == AGENTS:
            return await self._check_main_agent(choice.agent_id)
        assert choice.endpoint is not None  # both are there since `_complete`
        assert choice.model is not None
        self.check_model(choice.endpoint, choice.model)
        return str(enforced or Model(choice.endpoint, choice.model))

    async def _check_main_agent(self, agent_id: str | None) -> str:
        if agent_id is None:
            raise bad_selection("agent_id must name an agent")
        if self.restricted:
            first = (await self.check_agents([agent_id]))[0]
        else:
            try:
                first = await self.view.agent(self.caller, agent_id)
            except UnresolvableAgent:
                return f"{AGENTS}/{agent_id}"  # LibreChat will say whether the account may use it
        if first.endpoint is None or first.model is None:
            return f"{AGENTS}/{agent_id}"
        return str(Model(first.endpoint, first.model))

    async def _check_added(self, choice: Choice) -> None:
        if not self.restricted:
            return
        if choice.spec is not None:
            await self._check_spec(choice.spec, None)
        if choice.agent_id is not None:
            await self.check_agents([choice.agent_id])
            if choice.model is None or choice.endpoint in (None, AGENTS):
                return
        if choice.endpoint is None or choice.model is None or choice.endpoint == AGENTS:
            raise bad_selection("addedConvo must name an endpoint and a model, or an agent")
        self.check_model(choice.endpoint, choice.model)

    async def _check_spec(self, name: str, endpoint: str | None) -> Model | None:
        """Check a spec by its name; return the model that it forces on the message, if it does."""
        specs = await self.view.specs(self.caller)
        spec = specs.by_name.get(name)
        if spec is None:
            raise _spec_refused(name)
        if endpoint is not None and spec.choice.endpoint != endpoint:
            raise bad_selection("spec belongs to another endpoint")
        await self.check_spec_choice(spec)
        chosen = spec.choice
        if not specs.enforced or chosen.endpoint is None or chosen.model is None:
            return None
        return Model(chosen.endpoint, chosen.model)


def bad_selection(problem: object) -> Refused:
    """A body that no honest client sends."""
    return Refused(400, "invalid_body", f"The request makes no sense: {problem}.")


def model_refused(endpoint: str, model: str) -> Refused:
    """A model that the workspace may not use; LibreChat's client has its own text for this type (contract §7.3)."""
    message = f"The model {endpoint}/{model} is not available in this workspace."
    shown = {"type": "illegal_model_request", "info": f"{endpoint}|{model}", "message": message}
    return Refused(403, "model_not_allowed", message, librechat=shown)


def agent_refused(reason: str = "") -> Refused:
    """An agent that may not be used, or that can't be looked into; which one is not told."""
    message = "This agent is not available in this workspace" + (f": {reason}." if reason else ".")
    return Refused(403, "agent_not_allowed", message)


def _spec_refused(name: str) -> Refused:
    return Refused(403, "spec_not_allowed", f"The model spec {name} is not available in this workspace.")


def _with_endpoint(body: Mapping[str, Any], path_endpoint: str | None) -> Mapping[str, Any]:
    """The body with its endpoint, where it leaves that to the path or to the agent that it names."""
    if body.get("endpoint") not in (None, ""):
        return body
    if path_endpoint is not None:
        return {**body, "endpoint": path_endpoint}
    return {**body, "endpoint": AGENTS} if read_choice(body).agent_id is not None else body
