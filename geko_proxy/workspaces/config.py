"""What a workspace may use: models, a default model, MCP servers; and which models stand in for others."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final
from uuid import UUID

from geko_proxy.errors import GekoError
from geko_proxy.storage.cache import Cache
from geko_proxy.storage.database import Database
from geko_proxy.storage.invalidation import Invalidation

if TYPE_CHECKING:
    from asyncpg import Record

TOPIC: Final = "workspace_config"

MAX_ENTRIES: Final = 500
MAX_LENGTH: Final = 256
MAX_FALLBACKS: Final = 10
NAME: Final = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]+")

GET: Final = """
select models, default_model, mcp_servers, version, fallback
from workspace_config where tenant_id = $1 and workspace_id = $2"""

# $7: the version that the writer has read; null to write over any.
PUT: Final = """
insert into workspace_config as c (tenant_id, workspace_id, models, default_model, mcp_servers, fallback, version)
select $1, $2, $3, $4, $5, $6, 1 where coalesce($7, 0) = 0
    or exists (select from workspace_config where tenant_id = $1 and workspace_id = $2)
on conflict (tenant_id, workspace_id) do update
set models = excluded.models, default_model = excluded.default_model, mcp_servers = excluded.mcp_servers,
    fallback = excluded.fallback, version = c.version + 1, updated_at = now()
where $7::integer is null or c.version = $7
returning version"""


class InvalidConfig(ValueError):
    """A configuration that can't be used. problems: every one, each with its field."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


class VersionConflict(GekoError):
    """Somebody else has written the configuration since it was read."""


@dataclass(frozen=True, slots=True)
class WorkspaceConfig:
    """models: globs "Endpoint/model" ("Mock/gpt-4o-mini", "openAI/*"); mcp_servers: names; None allows all.

    default_model: "Endpoint/model". version: 0 before the first write, then 1 more with each.
    key_models: the globs of the API key that is at work, never stored; what is allowed must match both lists.
    hidden_endpoints: LibreChat's own, for titles and the like; nobody may chat with them. Never stored.
    fallback: "Endpoint/model", tried in this order when the model that was asked for can't answer.
    """

    models: tuple[str, ...] | None = None
    default_model: str | None = None
    mcp_servers: tuple[str, ...] | None = None
    version: int = 0
    key_models: tuple[str, ...] | None = None
    hidden_endpoints: frozenset[str] = frozenset()
    fallback: tuple[str, ...] = ()

    @classmethod
    def from_row(cls, row: Record) -> WorkspaceConfig:
        """The configuration of a row of `workspace_config`."""
        models, servers = row["models"], row["mcp_servers"]
        return cls(
            None if models is None else tuple(models),
            row["default_model"],
            None if servers is None else tuple(servers),
            row["version"],
            fallback=tuple(row["fallback"]),
        )

    @property
    def lists_models(self) -> bool:
        """Whether some models may not be used."""
        return self.models is not None or self.key_models is not None

    def allows_model(self, endpoint: str, model: str) -> bool:
        """Whether a model of an endpoint may be used, both named as LibreChat names them."""
        return endpoint not in self.hidden_endpoints and all(
            globs is None or any(matches(glob, endpoint, model) for glob in globs)
            for globs in (self.models, self.key_models)
        )

    def allows_mcp(self, name: str) -> bool:
        """Whether an MCP server may be used."""
        return self.mcp_servers is None or name in self.mcp_servers


class WorkspaceConfigStore:
    """SQL for configurations; cached for ttl_s seconds, or until a write on any instance.

    Every method raises StoreError when the database is gone.
    """

    def __init__(
        self, database: Database, invalidation: Invalidation | None = None, ttl_s: float = 3600
    ) -> None:
        self._database = database
        self._invalidation = invalidation
        self._cache: Cache[WorkspaceConfig] = Cache(TOPIC, ttl_s=ttl_s, invalidation=invalidation)

    @property
    def generation(self) -> int | None:
        """Changes with each change anywhere; None while changes can't be heard."""
        return self._cache.generation

    async def get(self, tenant_id: UUID, workspace_id: UUID) -> WorkspaceConfig:
        """The configuration; the one that allows everything when none was written yet."""
        key = f"{tenant_id}/{workspace_id}"
        return await self._cache.get(key, lambda: self._load(tenant_id, workspace_id))

    async def put(
        self,
        tenant_id: UUID,
        workspace_id: UUID,
        config: WorkspaceConfig,
        *,
        expected_version: int | None = None,
    ) -> WorkspaceConfig:
        """Writes a configuration; returns it with its new version.

        expected_version: the version it was read at, None to write over any.
        Raises InvalidConfig, VersionConflict.
        """
        if problems := find_problems(config):
            raise InvalidConfig(problems)
        key = f"{tenant_id}/{workspace_id}"
        values = (config.models, config.default_model, config.mcp_servers, config.fallback)
        async with self._database.tenant(tenant_id) as scope:
            version = await scope.fetch_value(PUT, workspace_id, *values, expected_version)
            if version is None:
                raise VersionConflict(key)
            if self._invalidation is not None:
                await self._invalidation.publish(scope, TOPIC, key)
        self._cache.drop(key)
        return replace(config, version=version)

    async def _load(self, tenant_id: UUID, workspace_id: UUID) -> WorkspaceConfig:
        async with self._database.tenant(tenant_id) as scope:
            row = await scope.fetch_row(GET, workspace_id)
        return WorkspaceConfig() if row is None else WorkspaceConfig.from_row(row)


def matches_glob(glob: str, text: str) -> bool:
    """Whether a glob, in which only `*` is special, matches the whole text; in time linear in both."""
    first, *middle = glob.split("*")
    if not middle:
        return text == glob
    last = middle.pop()
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for part in middle:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def matches(glob: str, endpoint: str, model: str) -> bool:
    """Whether "Endpoint/model" matches. Each side is matched alone: a model's name may contain slashes."""
    endpoint_glob, _, model_glob = glob.partition("/")
    return matches_glob(endpoint_glob, endpoint) and matches_glob(model_glob, model)


def find_problems(config: WorkspaceConfig) -> list[str]:
    """Everything that is wrong with a configuration, each with its field; empty when it can be stored."""
    problems = list_problems("models", config.models) + list_problems("mcp_servers", config.mcp_servers)
    for index, glob in enumerate(config.models or ()):
        if not all(glob.partition("/")):
            problems.append(f'models[{index}]: must be "Endpoint/model", for example "openAI/*"')
    if config.default_model is not None:
        problems += default_model_problems(config, config.default_model)
    return problems + fallback_problems(config)


def default_model_problems(config: WorkspaceConfig, default: str) -> list[str]:
    """What is wrong with the default model."""
    problem = model_problem(config, default)
    return [f"default_model: {problem}"] if problem else []


def fallback_problems(config: WorkspaceConfig) -> list[str]:
    """What is wrong with the models that stand in for others."""
    if len(config.fallback) > MAX_FALLBACKS:
        return [f"fallback: more than {MAX_FALLBACKS} entries"]
    found = [(index, model_problem(config, model)) for index, model in enumerate(config.fallback)]
    problems = [f"fallback[{index}]: {problem}" for index, problem in found if problem]
    return problems + [
        f"fallback[{index}]: is there twice"
        for index, model in enumerate(config.fallback)
        if model in config.fallback[:index]
    ]


def model_problem(config: WorkspaceConfig, name: str) -> str | None:
    """What is wrong with the name of one model that is to be used."""
    endpoint, slash, model = name.partition("/")
    if not (endpoint and slash and model) or "*" in name or not is_name(name):
        return 'must be one model, "Endpoint/model"'
    if not config.allows_model(endpoint, model):
        return "is not among the allowed models"
    return None


def list_problems(field: str, names: tuple[str, ...] | None) -> list[str]:
    """What is wrong with a list of names."""
    if names is None:
        return []
    problems = [f"{field}[{i}]: not a usable name" for i, name in enumerate(names) if not is_name(name)]
    if len(names) > MAX_ENTRIES:
        problems.append(f"{field}: more than {MAX_ENTRIES} entries")
    return problems


def is_name(text: str) -> bool:
    """Whether a text can be a name: not empty, not too long, nothing that does not print."""
    return len(text) <= MAX_LENGTH and NAME.fullmatch(text) is not None
