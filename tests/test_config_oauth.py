"""Settings of identity providers: defaults by kind, secrets by environment and file, every problem with its place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from geko_proxy.config import ConfigError, Settings, load_settings
from geko_proxy.config.oauth_settings import is_provider_url

BASE = 'version = 1\n[server]\npublic_url = "https://chat.example.org"\n'
GOOGLE = '[[oauth]]\nname = "google"\nkind = "google"\nclient_id = "g"\n'


def load(tmp_path: Path, toml: str, environ: Mapping[str, str] | None = None) -> Settings:
    path = tmp_path / "geko.toml"
    path.write_text(toml)
    return load_settings(path, environ or {}, None)


def problems(tmp_path: Path, toml: str, environ: Mapping[str, str] | None = None) -> set[str]:
    with pytest.raises(ConfigError) as found:
        load(tmp_path, toml, environ)
    return {each.replace(f"{tmp_path}/", "") for each in found.value.problems}


def test_defaults_by_kind_and_the_order_of_the_file(tmp_path: Path) -> None:
    toml = (
        BASE
        + '[[oauth]]\nname = "git-hub"\nkind = "github"\nclient_id = "i"\nclient_secret = "hidden"\n'
        + '[[oauth]]\nname = "acme"\nkind = "oidc"\nclient_id = "i"\nissuer = "https://id.acme.test/"\n'
        + 'client_secret = { env = "ACME" }\nallowed_domains = ["acme.test"]\nallow_registration = true\n'
        + GOOGLE
    )
    secret = tmp_path / "secret"
    secret.write_text("from a file\n")
    environ = {
        "ACME": "by name",
        "GEKO_OAUTH_GOOGLE_CLIENT_SECRET_FILE": str(secret),
        "GEKO_OAUTH_GIT_HUB_SCOPES": "read:user, user:email,repo",
    }
    github, acme, google = load(tmp_path, toml, environ).oauth
    assert (github.name, github.display_name, github.api_url) == (
        "git-hub",
        "GitHub",
        "https://api.github.com",
    )
    assert github.scopes == ("read:user", "user:email", "repo")
    assert (acme.client_secret, acme.issuer, acme.display_name) == (
        "by name",
        "https://id.acme.test/",
        "Acme",
    )
    assert (acme.allow_registration, acme.allowed_domains) == (True, ("acme.test",))
    assert (google.client_secret, google.issuer) == ("from a file", "https://accounts.google.com")
    assert (google.scopes, google.allow_registration) == (("openid", "email", "profile"), False)
    assert "hidden" not in repr(github)


def test_every_problem_at_once_with_its_place(tmp_path: Path) -> None:
    toml = (
        BASE
        + GOOGLE
        + 'client_secret = { env = "NOWHERE" }\nissuer = "http://id.test"\nscope = []\n'
        + '[[oauth]]\nname = "Git Hub"\nkind = "gitlab"\nclient_id = "i"\nclient_secret = 5\n'
        + '[[oauth]]\nname = "links"\nkind = "github"\nallowed_domains = ["@x"]\nissuer = "https://id.test"\n'
        + '[[oauth]]\nname = "google"\nkind = "oidc"\nclient_id = "i"\nclient_secret = "s"\napi_url = "https://x.test"\n'
        + 'scopes = ["email"]\n'
    )
    environ = {"GEKO_OAUTH_GOOGLE_CLIENT_IDD": "x", "GEKO_OAUTH_OTHER_CLIENT_ID": "x"}
    url = "expected an https URL (http only for this machine's own addresses), got 'http://id.test'"
    assert problems(tmp_path, toml, environ) == {
        "geko.toml: oauth[0].client_secret: environment variable NOWHERE is not set",
        f"geko.toml: oauth[0].issuer: {url}",
        "geko.toml: oauth[0].scope: unknown key, did you mean scopes?",
        "geko.toml: oauth[1].name: expected a name of a-z, 0-9 and -, at most 32, got 'Git Hub'",
        'geko.toml: oauth[1].kind: expected "google" or "github" or "oidc", got \'gitlab\'',
        "geko.toml: oauth[1].client_secret: expected printable ASCII text",
        "geko.toml: oauth[2].name: expected a name of a-z, 0-9 and -, at most 32, got 'links' "
        "(this name is taken by GEKO's own pages)",
        "geko.toml: oauth[2].client_id: needed",
        "geko.toml: oauth[2].client_secret: needed",
        "geko.toml: oauth[2].allowed_domains: expected a list of domains like [\"example.org\"], got ['@x']",
        "geko.toml: oauth[2].issuer: not for the kind github",
        "geko.toml: oauth[3]: the provider google is there twice",
        "geko.toml: oauth[3].issuer: needed, or set GEKO_OAUTH_GOOGLE_ISSUER",
        "geko.toml: oauth[3].api_url: only for the kind github",
        'geko.toml: oauth[3].scopes: "openid" must be among them',
        "environment GEKO_OAUTH_GOOGLE_CLIENT_IDD: client_idd is no setting of an identity provider, "
        "did you mean client_id?",
        "environment GEKO_OAUTH_OTHER_CLIENT_ID: no [[oauth]] entry of that name in the configuration",
    }


def test_a_provider_needs_a_public_address(tmp_path: Path) -> None:
    toml = "version = 1\n" + GOOGLE + 'client_secret = "s"\n'
    assert problems(tmp_path, toml) == {
        "server.public_url: needed by [[oauth]]: providers send people back to it"
    }


def test_a_secret_given_twice_is_a_problem(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("one")
    environ = {
        "GEKO_OAUTH_GOOGLE_CLIENT_SECRET": "two",
        "GEKO_OAUTH_GOOGLE_CLIENT_SECRET_FILE": str(secret),
    }
    assert problems(tmp_path, BASE + GOOGLE, environ) == {
        "environment GEKO_OAUTH_GOOGLE_CLIENT_SECRET_FILE: GEKO_OAUTH_GOOGLE_CLIENT_SECRET is set too, "
        "expected only one"
    }


@pytest.mark.parametrize(("toml", "problem"), [("oauth = 5", "[[oauth]] tables"), ("oauth = [5]", "a table")])
def test_what_is_no_list_of_tables(tmp_path: Path, toml: str, problem: str) -> None:
    (found,) = problems(tmp_path, "version = 1\n" + toml)
    assert found.endswith(f"expected {problem}")


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("https://id.example.org", True),
        ("https://id.example.org:8443/realms/a", True),
        ("http://127.0.0.1:8080", True),
        ("http://localhost/x", True),
        ("http://[::1]:1", True),
        ("http://id.example.org", False),
        ("http://127.0.0.1.example.org", False),
        ("http://localhost.example.org", False),
        ("https://user@id.example.org", False),
        ("https://id.example.org/#a", False),
        ("https://id.example.org/a b", False),
        ("https://id.example.org\\@x", False),
        ("https:///x", False),
        ("https://x:99999", False),
        ("ftp://id.example.org", False),
        ("javascript:alert(1)", False),
        ("https://[x", False),
    ],
)
def test_where_secrets_may_be_sent(address: str, allowed: bool) -> None:
    assert is_provider_url(address) is allowed
