"""What LibreChat shows to one account: models, specs, agents; each remembered for a short while."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cachetools import TTLCache

from geko_proxy.errors import UpstreamError
from geko_proxy.policy.selection import AgentChoice, BadSelection, SpecChoice, read_agent, read_spec

if TYPE_CHECKING:
    from geko_proxy.librechat_client import LibreChatClient

MODELS_TTL_S: Final = 300.0
SPECS_TTL_S: Final = 60.0  # as long as LibreChat itself keeps its configuration
AGENT_TTL_S: Final = 15.0
MAX_AGENTS: Final = 50  # that one agent leads to


@dataclass(frozen=True, slots=True)
class Caller:
    """A shadow account and a bearer for it. account_id: LibreChat's user id."""

    account_id: str
    bearer: str


@dataclass(frozen=True, slots=True)
class Specs:
    """The model specs. enforced: LibreChat then takes the model from the spec and not from the body."""

    enforced: bool
    by_name: Mapping[str, SpecChoice]


class UnresolvableAgent(Exception):
    """An agent, or one it leads to, whose choices can't be seen whole."""


class LibreChatView:
    """Asks LibreChat as the account. Every method raises UpstreamError when it can't be asked."""

    def __init__(self, client: LibreChatClient) -> None:
        self._client = client
        self._models: TTLCache[str, Mapping[str, Sequence[str]]] = TTLCache(10_000, MODELS_TTL_S)
        self._specs: TTLCache[str, Specs] = TTLCache(10_000, SPECS_TTL_S)
        self._agents: TTLCache[tuple[str, str], AgentChoice] = TTLCache(10_000, AGENT_TTL_S)

    async def models(self, caller: Caller) -> Mapping[str, Sequence[str]]:
        """The models of the endpoints that are switched on, in the order in which LibreChat shows them.

        Its model list alone also names endpoints that are off (contract §4.2).
        """
        found = self._models.get(caller.account_id)
        if found is None:
            listed = await self._client.models(caller.bearer)
            shown = await self._client.call("GET", "/api/endpoints", bearer=caller.bearer)
            if shown.status != 200 or not isinstance(shown.value, dict):
                raise UpstreamError(f"LibreChat gave no endpoints ({shown.status})")
            names = sorted(shown.value, key=lambda name: order_of(shown.value[name]))
            found = {name: listed[name] for name in names if name in listed}
            self._models[caller.account_id] = found
        return found

    async def specs(self, caller: Caller) -> Specs:
        """The model specs of LibreChat's configuration for this account; what can't be read is left out."""
        found = self._specs.get(caller.account_id)
        if found is None:
            found = read_specs(await self._client.config(caller.bearer))
            self._specs[caller.account_id] = found
        return found

    async def agent(self, caller: Caller, agent_id: str) -> AgentChoice:
        """What one agent selects. Raises UnresolvableAgent."""
        key = (caller.account_id, agent_id)
        found = self._agents.get(key)
        if found is None:
            document = await self.agent_document(caller, agent_id)
            try:
                found = read_agent(document)
            except BadSelection as error:
                raise UnresolvableAgent(f"{agent_id}: {error}") from None
            self._agents[key] = found
        return found

    async def agent_document(self, caller: Caller, agent_id: str) -> dict[str, Any]:
        """An agent as LibreChat gives it now. Raises UnresolvableAgent."""
        document = await self._client.agent(caller.bearer, agent_id)
        if document is None:
            raise UnresolvableAgent(agent_id)
        return document

    async def reachable(self, caller: Caller, start: Sequence[str]) -> list[AgentChoice]:
        """The agents of `start` and all that they lead to by edges, chains and sub-agents.

        Raises UnresolvableAgent, also when they are too many.
        """
        seen: dict[str, AgentChoice] = {}
        waiting = list(start)
        while waiting:
            agent_id = waiting.pop()
            if agent_id in seen:
                continue
            if len(seen) >= MAX_AGENTS:
                raise UnresolvableAgent(f"more than {MAX_AGENTS} agents")
            seen[agent_id] = choice = await self.agent(caller, agent_id)
            if not choice.complete:
                raise UnresolvableAgent(agent_id)
            waiting.extend(choice.agents)
        return list(seen.values())

    def forget_agent(self, agent_id: str) -> None:
        """Drop what is remembered of an agent, because it is being changed."""
        for key in [key for key in self._agents if key[1] == agent_id]:
            self._agents.pop(key, None)


def order_of(endpoint: Any) -> float:
    """An endpoint's place in LibreChat's menu; those without one come last."""
    order = endpoint.get("order") if isinstance(endpoint, dict) else None
    return float(order) if isinstance(order, int | float) else float("inf")


def read_specs(config: Mapping[str, Any]) -> Specs:
    """The model specs in LibreChat's configuration. Of two with one name LibreChat takes the first."""
    section = config.get("modelSpecs")
    if not isinstance(section, dict):
        return Specs(False, {})
    by_name: dict[str, SpecChoice] = {}
    listed = section.get("list")
    for each in listed if isinstance(listed, list) else ():
        try:
            spec = read_spec(each)
        except (BadSelection, AttributeError):
            continue
        by_name.setdefault(spec.name, spec)
    return Specs(section.get("enforce") is True, by_name)
