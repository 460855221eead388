"""Documentation made from the settings themselves: .env.example and docs/settings.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geko_proxy.config.filter_entries import variable_name
from geko_proxy.config.kinds import Kind
from geko_proxy.config.llm_settings import DEPLOYMENT_KEYS, PROVIDER_KEYS
from geko_proxy.config.oauth_settings import KEYS as OAUTH_KEYS
from geko_proxy.config.price_entries import KEYS as PRICE_KEYS
from geko_proxy.config.settings import DEFAULT_FILTERS, SECTIONS, environment_name, section_fields

_PAGE_TOP = """\
# Settings

`config/geko.toml` holds what is set, the environment overrides it (so does a `.env` file), and everything has a
default. `python -m geko_proxy check-config` reports all problems at once. A secret may stand in a file: put the
file's path into `<NAME>_FILE`, or write `{ file = "…" }` or `{ env = "…" }` in the TOML file. An empty environment
variable counts as not set. Relative paths are relative to the working directory.
This page is made from `geko_proxy/config/settings.py` by `make settings`.
"""

_PAGE_FILTERS = """\
## [[filters]]

One entry per filter, in the order in which requests pass them: `name`, `enabled`, `failure` (`closed` or `open`),
`timeout_ms` (for request and reply hooks) and a table `[filters.options]`, described in [filters.md](filters.md).
Without any entry the built-in filters run, as in `config/geko.toml`; `filters = []` means none at all.

In the environment: `GEKO_FILTER_<NAME>_ENABLED`, `_FAILURE`, `_TIMEOUT_MS`, and `GEKO_FILTER_<NAME>_<OPTION>` for
options, whose values are read as in TOML (`200`, `true`, `["a", "b"]`); what TOML can't read is text.
"""


_PAGE_OAUTH = """\
## [[oauth]]

One entry per identity provider, in the order in which people see them; none: people sign in with a password. They need
`server.public_url`. How to set up the providers is in [oauth.md](oauth.md).

In the environment: `GEKO_OAUTH_<NAME>_<KEY>` changes a key of an entry, e.g. `GEKO_OAUTH_GOOGLE_CLIENT_SECRET` or
`GEKO_OAUTH_GOOGLE_CLIENT_SECRET_FILE`.
"""


_PAGE_PRICES = """\
## [[prices]]

What models cost, in units of `metering.currency` for a million tokens, for limits in money and reports; see
[limits.md](limits.md#prices). Of several entries that fit a model the one with the most literal text counts, and of its
dates the newest that has begun.
"""


_PAGE_LLM = """\
## [[llm_providers]]

The providers of LibreChat's models, which LibreChat calls at `[llm]`. Each has `[[llm_providers.deployments]]`. None:
the internal listener is off. What happens when one fails is in [llm-providers.md](llm-providers.md). Keys and headers
may stand in `{ env = "…" }` or `{ file = "…" }`.
"""


@dataclass(frozen=True, slots=True)
class SettingDescription:
    """One setting as shown to people; `variables` has the full environment name first, then aliases."""

    section: str
    key: str
    variables: tuple[str, ...]
    default: str
    expected: str
    doc: str
    secret: bool


def describe_settings() -> Iterator[SettingDescription]:
    """Describe every setting, in the order of the sections and their keys."""
    for section in SECTIONS:
        for key, (spec, default) in section_fields(section).items():
            names = (environment_name(section, key), *spec.aliases)
            yield SettingDescription(
                section, key, names, _as_text(default), spec.kind.expected, spec.doc, spec.secret
            )


def env_example() -> str:
    """Write .env.example: every variable, commented out, with its default."""
    lines = [
        "# GEKO reads a file called .env in the folder where it is started. Copy this one and uncomment what you need.",
        "# The environment wins over .env, which wins over config/geko.toml. An empty value counts as not set.",
        "# A secret can also be read from a file: put the file's path into <NAME>_FILE.",
        "# Made from geko_proxy/config/settings.py by `make settings`.",
    ]
    section = ""
    for item in describe_settings():
        if item.section != section:
            section = item.section
            lines += ["", f"# [{section}] {_first_line(SECTIONS[section])}"]
        lines.append(
            f"# {item.doc}" + (f" Also {', '.join(item.variables[1:])}." if item.variables[1:] else "")
        )
        lines.append(f"#{item.variables[0]}={item.default}")
    lines += [
        "",
        "# Identity providers, the [[oauth]] entries of the TOML file: GEKO_OAUTH_<NAME>_<KEY>, like _CLIENT_SECRET.",
        "",
        "# Filters: GEKO_FILTER_<NAME>_<OPTION>, and _ENABLED, _FAILURE (closed or open), _TIMEOUT_MS.",
    ]
    for entry in DEFAULT_FILTERS:
        lines += [f"#{variable_name(entry.name, key)}={value}" for key, value in entry.options.items()]
    return "\n".join(lines) + "\n"


def settings_page() -> str:
    """Write docs/settings.md: one table for each section."""
    lines = [_PAGE_TOP]
    for section, kind in SECTIONS.items():
        lines += [f"## [{section}]", "", _first_line(kind), ""]
        lines += ["| Key | Environment | Default | What |", "|---|---|---|---|"]
        lines += [_row(item) for item in describe_settings() if item.section == section]
        lines.append("")
    lines += [_PAGE_LLM, *_entry_rows(PROVIDER_KEYS), ""]
    lines += ["### [[llm_providers.deployments]]", "", *_entry_rows(DEPLOYMENT_KEYS), ""]
    lines += [_PAGE_PRICES, *_price_rows(), ""]
    return "\n".join([*lines, _PAGE_OAUTH, *_entry_rows(OAUTH_KEYS), ""]) + "\n" + _PAGE_FILTERS


def _price_rows() -> Iterator[str]:
    yield from ("| Key | What |", "|---|---|")
    for key, doc in PRICE_KEYS.items():
        yield f"| `{key}` | {doc} |"


def _entry_rows(keys: Mapping[str, tuple[Kind[Any], str]]) -> Iterator[str]:
    yield from ("| Key | What |", "|---|---|")
    for key, (kind, doc) in keys.items():
        yield f"| `{key}` | {doc} Expects {kind.expected}. |"


def _row(item: SettingDescription) -> str:
    names = "<br>".join(f"`{name}`" for name in item.variables)
    default = f"`{item.default}`" if item.default else ""
    secret = " Secret." if item.secret else ""
    return f"| `{item.key}` | {names} | {default} | {item.doc} Expects {item.expected}.{secret} |"


def _first_line(kind: type[Any]) -> str:
    return (kind.__doc__ or "").splitlines()[0]


def _as_text(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ",".join(str(item) for item in default)
    return str(default.as_posix() if isinstance(default, Path) else default)
