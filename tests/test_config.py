"""Settings: precedence, every problem at once with its place, secrets, filters, and the files made from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.config import ConfigError, SettingDescription, Settings, describe_settings, load_settings
from geko_proxy.config.describe import env_example, settings_page
from geko_proxy.config.settings import SECTIONS, section_fields
from geko_proxy.config.sources import _unquote, read_dotenv

ROOT = Path(__file__).parents[1]
STRONG = {
    "GEKO_AUTH_JWT_SECRET": "a3f1c5d7e9b2406880aa11bb22cc33dd",
    "GEKO_AUTH_ENCRYPTION_SECRET": "e3f1c5d7e9b2406880aa11bb22cc33dd",
    "GEKO_LIBRECHAT_SHADOW_SECRET": "b3f1c5d7e9b2406880aa11bb22cc33dd",
    "LIBRECHAT_JWT_SECRET": "c3f1c5d7e9b2406880aa11bb22cc33dd",
    "LIBRECHAT_JWT_REFRESH_SECRET": "d3f1c5d7e9b2406880aa11bb22cc33dd",
}


class Files:
    """Writes configuration files and loads them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text, "utf-8")
        return path

    def load(self, toml: str = "", environ: Mapping[str, str] | None = None, dotenv: str = "") -> Settings:
        path = self.write("geko.toml", f"version = 1\n{toml}")
        return load_settings(path, environ or {}, self.write(".env", dotenv))

    def problems(
        self, toml: str = "", environ: Mapping[str, str] | None = None, dotenv: str = ""
    ) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            self.load(toml, environ, dotenv)
        return [problem.replace(f"{self.folder}/", "") for problem in caught.value.problems]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_nothing_set_gives_the_defaults_and_the_built_in_filters() -> None:
    settings = load_settings(None, {}, None)
    assert settings == Settings()
    assert settings.server.port == 3002
    assert settings.server.home == Path(".geko")
    assert [each.name for each in settings.filters] == ["rate_limit", "auth", "tenant", "workspace", "quota"]


def test_the_file_in_the_repository_holds_the_defaults_and_names_every_key() -> None:
    path = ROOT / "config/geko.toml"
    assert load_settings(path, {}, None) == Settings()
    text = path.read_text("utf-8")
    for section in SECTIONS:
        block = text.split(f"[{section}]\n")[1].split("\n\n")[0]
        assert re.findall(r"^(?:# )?(\w+) = ", block, re.MULTILINE) == list(section_fields(section))


@pytest.mark.parametrize(
    ("environ", "dotenv", "expected"),
    [
        ({}, "", 4000),
        ({}, "GEKO_PORT=5000", 5000),
        ({"GEKO_PORT": "6000"}, "GEKO_SERVER_PORT=5000", 6000),
        ({"GEKO_PORT": "6000", "GEKO_SERVER_PORT": "7000"}, "", 7000),
        ({"GEKO_PORT": ""}, "", 4000),
    ],
)
def test_environment_beats_dotenv_beats_file(
    files: Files, environ: dict[str, str], dotenv: str, expected: int
) -> None:
    assert files.load("[server]\nport = 4000", environ, dotenv).server.port == expected


@pytest.mark.parametrize("item", list(describe_settings()), ids=lambda item: f"{item.section}.{item.key}")
def test_every_setting_can_be_set_by_each_of_its_variables(item: SettingDescription, files: Files) -> None:
    # a value that differs from every default, in the words of the kind
    samples = {
        "true or false": "false" if item.default == "true" else "true",
        'true, false or "auto"': "true",
        "a currency": "EUR",
        "a list of origins": "https://one.example, http://localhost:5173",
        "a number": "0.5",
        "a list": "10.0.0.0/8, 192.0.2.1",
        "an http": "https://one.example",
        "a domain": "one.example",
        "a host name": "{workspace}.{tenant}.example.org",
        "a URL that starts with postgresql": "postgresql://u:p@h/db",
        "a URL that starts with redis": "rediss://h:6379/0",
        '"mint"': "login",
        '"HS256"': "eddsa",
        '"refuse" or the id': "6f1d6f0e-6f3b-4a52-9a53-0c6a4f0e8a11",
        '"refuse"': "pass",
        '"debug"': "error",
        '"off"': "smtp",
        '"starttls"': "tls",
        '"text"': "json",
    }
    sample = next((text for start, text in samples.items() if item.expected.startswith(start)), "other")
    if item.expected.startswith("an integer"):
        number = int(item.default)
        least = re.match(r"an integer (?:from|>=) (\d+)", item.expected)
        assert least
        sample = str(number - 1 if number > int(least[1]) else number + 1)
    default = getattr(getattr(Settings(), item.section), item.key)
    for name in item.variables:
        assert getattr(getattr(files.load("", {name: sample}), item.section), item.key) != default


def test_values_get_their_types(files: Files) -> None:
    settings = files.load(
        """
        [server]
        trusted_proxies = ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7"]
        public_url = "https://chat.example.org/"
        home = "/srv/geko"
        """,
        {"GEKO_SERVER_ACCESS_LOG": "Off", "GEKO_LIBRECHAT_IDENTITY": "LOGIN"},
    )
    assert settings.server.trusted_proxies == tuple(
        ip_network(text) for text in ("10.0.0.0/8", "2001:db8::/32", "192.0.2.7/32")
    )
    assert settings.server.public_url == "https://chat.example.org"
    assert settings.server.home == Path("/srv/geko")
    assert settings.server.access_log is False
    assert settings.librechat.identity == "login"


@pytest.mark.parametrize(
    ("cookie_secure", "public_url", "secure"),
    [
        ("auto", "", False),
        ("auto", "http://localhost:3002", False),
        ("auto", "https://chat.example.org", True),
        ("true", "http://localhost:3002", True),
        ("false", "https://chat.example.org", False),
    ],
)
def test_cookies_are_secure(files: Files, cookie_secure: str, public_url: str, secure: bool) -> None:
    environ = {"GEKO_SERVER_COOKIE_SECURE": cookie_secure, "GEKO_SERVER_PUBLIC_URL": public_url}
    assert files.load("", environ).server.cookies_are_secure is secure


def test_all_problems_are_reported_at_once_each_with_its_place(files: Files) -> None:
    problems = files.problems(
        """
        [server]
        port = "3002"
        hots = "x"
        trusted_proxies = ["10.0.0.1/8"]
        [librechat]
        url = "x"
        [databse]
        [[filters]]
        name = "auth"
        failure = "ajar"
        timeout = 5
        [[filters]]
        name = "auth"
        """,
        {"GEKO_SERVER_PORT": "many", "GEKO_SERVRE_PORT": "1", "GEKO_FILTER_AUHT_X": "1"},
        "LIBRECHAT_URL=http://host/path\nnonsense\n",
    )
    assert sorted(problems) == sorted(
        [
            "geko.toml: databse: unknown section, did you mean database?",
            "geko.toml: server.hots: unknown key, did you mean host?",
            "geko.toml: server.trusted_proxies: expected a list of IP networks like 10.0.0.0/8, "
            "got ['10.0.0.1/8'] (10.0.0.1/8 has host bits set)",
            ".env LIBRECHAT_URL: expected an http or https URL, got 'http://host/path' "
            "(the address must end after the host and port)",
            ".env: line 2: expected NAME=value",
            "environment GEKO_SERVER_PORT: expected an integer from 0 to 65535, got 'many'",
            "environment GEKO_SERVRE_PORT: unknown setting, did you mean GEKO_SERVER_PORT?",
            "environment GEKO_FILTER_AUHT_X: no filter of that name in the configuration, "
            "did you mean GEKO_FILTER_AUTH_…?",
            'geko.toml: filters[0].failure: expected "closed" or "open", got \'ajar\'',
            "geko.toml: filters[0].timeout: unknown key, did you mean timeout_ms?",
            "geko.toml: filters[1]: the filter auth is there twice",
        ]
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "geko.toml: version: expected 1, got none; this GEKO reads no other version"),
        ("[server]", "geko.toml: version: expected 1, got none; this GEKO reads no other version"),
        ("version = 2\nnew = 1", "geko.toml: version: expected 1, got 2; this GEKO reads no other version"),
        ("version = true", "geko.toml: version: expected 1, got True; this GEKO reads no other version"),
        ("version = ", "geko.toml: not valid TOML: Invalid value (at end of document)"),
        ("version = 1\nserver = 5", "geko.toml: server: expected a table"),
        ("version = 1\nfilters = 5", "geko.toml: filters: expected [[filters]] tables"),
        ("version = 1\nfilters = [5]", "geko.toml: filters[0]: expected a table"),
        ("version = 1\n[[filters]]", "geko.toml: filters[0].name: expected the filter's name, got None"),
        (
            "version = 1\n[database]\npool_min = 20",
            "database.pool_min: expected at most pool_max (10)",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused(files: Files, content: str, problem: str) -> None:
    path = files.write("geko.toml", content)
    with pytest.raises(ConfigError) as caught:
        load_settings(path, {}, None)
    assert [text.replace(f"{files.folder}/", "") for text in caught.value.problems] == [problem]


def test_a_missing_file_is_a_problem_but_a_missing_dotenv_is_not(tmp_path: Path) -> None:
    assert load_settings(None, {}, tmp_path / ".env") == Settings()
    with pytest.raises(ConfigError, match="no such file"):
        load_settings(tmp_path / "geko.toml", {}, None)


@pytest.mark.parametrize(
    ("toml", "environ", "dotenv"),
    [
        ("jwt_secret = 'plain'", {}, ""),
        ("jwt_secret = { env = 'ELSEWHERE' }", {"ELSEWHERE": "plain"}, ""),
        ("jwt_secret = { env = 'ELSEWHERE' }", {}, "ELSEWHERE=plain"),
        ("jwt_secret = { file = 'FOLDER/secret' }", {}, ""),
        ("", {"GEKO_AUTH_JWT_SECRET": "plain"}, ""),
        ("", {"GEKO_AUTH_JWT_SECRET_FILE": "FOLDER/secret"}, ""),
        ("", {}, "GEKO_AUTH_JWT_SECRET_FILE=FOLDER/secret"),
    ],
)
def test_a_secret_comes_from_each_source_and_is_never_shown(
    files: Files, toml: str, environ: dict[str, str], dotenv: str
) -> None:
    files.write("secret", "plain\n")
    here = str(files.folder)
    settings = files.load(
        "[auth]\n" + toml.replace("FOLDER", here),
        {name: value.replace("FOLDER", here) for name, value in environ.items()},
        dotenv.replace("FOLDER", here),
    )
    assert settings.auth.jwt_secret == "plain"
    assert "plain" not in repr(settings)


def test_a_secret_that_can_not_be_read_is_a_problem_that_does_not_show_it(files: Files) -> None:
    files.write("empty", "\n")
    problems = files.problems(
        "[auth]\njwt_secret = { env = 'NOWHERE' }\n[redis]\nurl = 'hidden://hidden'",
        {
            "GEKO_LIBRECHAT_SHADOW_SECRET_FILE": str(files.folder / "none"),
            "LIBRECHAT_JWT_SECRET_FILE": str(files.folder / "empty"),
            "LIBRECHAT_JWT_REFRESH_SECRET": "hidden",
            "LIBRECHAT_JWT_REFRESH_SECRET_FILE": str(files.folder / "empty"),
            "DATABASE_URL": "mysql://u:hidden@h/db",
        },
    )
    assert not any("hidden" in problem for problem in problems)
    assert sorted(problems) == [
        "environment DATABASE_URL: expected a URL that starts with postgresql:// or postgres://",
        "environment GEKO_LIBRECHAT_SHADOW_SECRET_FILE: can't read none: No such file or directory",
        "environment LIBRECHAT_JWT_REFRESH_SECRET: LIBRECHAT_JWT_REFRESH_SECRET_FILE is set too, "
        "expected only one of them",
        "environment LIBRECHAT_JWT_SECRET_FILE: empty is empty",
        "geko.toml: auth.jwt_secret: environment variable NOWHERE is not set",
        "geko.toml: redis.url: expected a URL that starts with redis:// or rediss:// or unix://",
    ]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"GEKO_AUTH_JWT_SECRET": ""}, "auth.jwt_secret: needed; set GEKO_AUTH_JWT_SECRET"),
        ({"GEKO_AUTH_JWT_SECRET": "short"}, "auth.jwt_secret: too weak"),
        ({"GEKO_AUTH_JWT_SECRET": "a" * 64}, "auth.jwt_secret: too weak"),
        ({"GEKO_AUTH_JWT_SECRET": "", "GEKO_AUTH_SIGNING": "EdDSA"}, None),
        ({"GEKO_AUTH_JWT_SECRET": "short", "GEKO_AUTH_SIGNING": "RS256"}, "auth.jwt_secret: too weak"),
        ({"GEKO_AUTH_ENCRYPTION_SECRET": "changeme-" * 5}, "auth.encryption_secret: is a placeholder"),
        ({"GEKO_LIBRECHAT_SHADOW_SECRET": ""}, "librechat.shadow_secret: needed"),
        (
            {"LIBRECHAT_JWT_SECRET": "16f8c0ef4a5d391b26034086c628469d3f9f497f08163ab9b40137092f2909ef"},
            "librechat.jwt_secret: is the example value that LibreChat publishes",
        ),
        ({"LIBRECHAT_JWT_REFRESH_SECRET": ""}, "librechat.jwt_refresh_secret: needed"),
        ({"LIBRECHAT_JWT_REFRESH_SECRET": "", "GEKO_LIBRECHAT_SECURE_IMAGES": "false"}, None),
        ({"LIBRECHAT_JWT_SECRET": "", "GEKO_LIBRECHAT_IDENTITY": "login"}, None),
        ({"LIBRECHAT_JWT_SECRET": STRONG["GEKO_AUTH_JWT_SECRET"]}, "each must be different"),
    ],
)
def test_serving_wants_strong_secrets(change: dict[str, str], fault: str | None) -> None:
    settings = load_settings(None, STRONG | change, None)
    if fault is None:
        settings.require_secrets()
    else:
        with pytest.raises(ConfigError, match=re.escape(fault)) as caught:
            settings.require_secrets()
        assert len(caught.value.problems) == 1


def test_serving_wants_librechats_address_too() -> None:
    with pytest.raises(ConfigError, match=r"librechat\.url: needed"):
        load_settings(None, STRONG, None).require_serving()
    load_settings(None, STRONG | {"LIBRECHAT_URL": "http://127.0.0.1:3080"}, None).require_serving()


def test_filters_are_read_in_order_and_changed_by_environment(files: Files) -> None:
    settings = files.load(
        """
        [[filters]]
        name = "rate"
        [[filters]]
        name = "rate_limit"
        timeout_ms = 50
        [filters.options]
        limit = 5
        key = { env = "KEY" }
        rules = [{ env = "KEY", weight = 2 }]
        """,
        {
            "KEY": "hidden",
            "GEKO_FILTER_RATE_LIMIT_LIMIT": "7",
            "GEKO_FILTER_RATE_LIMIT_PATHS": '["/a", "/b"]',
            "GEKO_FILTER_RATE_LIMIT_NOTE": "not TOML = at all",
            "GEKO_FILTER_RATE_LIMIT_FAILURE": "open",
            "GEKO_FILTER_RATE_ENABLED": "no",
        },
        "GEKO_FILTER_RATE_LIMIT_LIMIT=6\nGEKO_FILTER_RATE_LIMIT_WINDOW_S=60",
    )
    rate, rate_limit = settings.filters
    assert (rate.name, rate.enabled, rate.options) == ("rate", False, {})
    assert (rate_limit.failure, rate_limit.timeout_ms) == ("open", 50)
    assert rate_limit.options == {
        "limit": 7,
        "window_s": 60,
        "key": "hidden",
        "rules": [{"env": "KEY", "weight": 2}],
        "paths": ["/a", "/b"],
        "note": "not TOML = at all",
    }
    assert "hidden" not in repr(settings)


def test_an_empty_list_of_filters_means_none(files: Files) -> None:
    assert files.load("filters = []").filters == ()


def test_what_kubernetes_sets_for_a_service_called_geko_is_no_setting() -> None:
    links = {
        "GEKO_PORT": "tcp://10.0.0.1:3002",
        "GEKO_SERVICE_HOST": "10.0.0.1",
        "GEKO_SERVICE_PORT_HTTP": "3002",
        "GEKO_PORT_3002_TCP_ADDR": "10.0.0.1",
        "GEKO_PROXY_SERVICE_HOST": "10.0.0.1",
    }
    assert load_settings(None, links, None) == Settings()


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=b c ", "b c"),
        ("export A = b", "b"),
        ("A=b # comment", "b"),
        ("A=b#c", "b#c"),
        ("A='b # c' # comment", "b # c"),
        (r'A="b \"c\" \\ \n"', 'b "c" \\ \n'),
        ("A=", None),
        ("A= # nothing", None),
    ],
)
def test_dotenv_lines(files: Files, line: str, value: str | None) -> None:
    problems: list[str] = []
    variables = read_dotenv(files.write(".env", f"# comment\n\n{line}\n"), problems)
    assert problems == []
    assert variables.get("A") == value


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])))
def test_any_quoted_dotenv_value_comes_back_as_it_was(value: str) -> None:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    assert _unquote(f'"{escaped}"') == value


@pytest.mark.parametrize(
    ("name", "wanted"), [(".env.example", env_example), ("docs/settings.md", settings_page)]
)
def test_the_files_made_from_the_settings_are_up_to_date(name: str, wanted: Callable[[], str]) -> None:
    assert (ROOT / name).read_text("utf-8") == wanted(), "run `make settings`"


def test_the_example_environment_uncommented_gives_the_defaults(files: Files) -> None:
    lines = env_example().splitlines()
    dotenv = "\n".join(line[1:] for line in lines if re.match(r"#[A-Z]", line))
    assert dotenv.count("\n") > len(list(describe_settings()))
    assert load_settings(None, {}, files.write(".env", dotenv)) == Settings()
