"""`geko librechat-config`."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from geko_proxy.__main__ import main

TOML = """\
version = 1
[server]
public_url = "https://chat.example.org"
[librechat]
jwt_secret = "0123456789abcdef0123456789abcdef"
[llm]
key = "fedcba9876543210fedcba9876543210"
[[llm_providers]]
name = "A"
[[llm_providers.deployments]]
base_url = "http://127.0.0.1:9/v1"
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "geko.toml"
    path.write_text(TOML)
    return path


def run(config: Path, *words: str) -> int:
    return main(["--config", str(config), "librechat-config", *words])


def test_prints_a_yaml_or_the_env_lines(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config, "--gateway-url", "http://geko:3003", "--memory-model", "A/m/n") == 0
    document = yaml.safe_load(capsys.readouterr().out)
    assert document["memory"]["agent"]["model"] == "m/n"
    assert run(config, "--env") == 0
    assert "0123456789abcdef" not in capsys.readouterr().out


def test_never_writes_over_a_file_by_itself(config: Path, tmp_path: Path) -> None:
    target = tmp_path / "librechat.yaml"
    assert run(config, "--output", str(target)) == 0
    first = target.read_text()
    target.write_text("precious")
    assert run(config, "--output", str(target)) == 1
    assert target.read_text() == "precious"
    assert run(config, "--output", str(target), "--force") == 0
    assert target.read_text() == first
    assert sorted(each.name for each in tmp_path.iterdir()) == ["geko.toml", "librechat.yaml"]


def test_a_file_with_secrets_is_private(config: Path, tmp_path: Path) -> None:
    target = tmp_path / "librechat.env"
    assert run(config, "--env", "--output", str(target)) == 0
    assert target.stat().st_mode & 0o777 == 0o600
    assert "JWT_SECRET=0123456789abcdef0123456789abcdef\n" in target.read_text()


@pytest.mark.parametrize("words", [["--memory-model", "m"], ["--summary-model", "/m"]])
def test_models_have_a_provider(config: Path, words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(config, *words)
    assert caught.value.code == 2


def test_what_can_not_be_written_is_told(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(config, "--output", str(tmp_path / "nowhere" / "x.yaml")) == 1
    assert "can't be written" in capsys.readouterr().err
    assert run(config, "--memory-model", "B/m") == 1
    assert "there is no provider 'B'" in capsys.readouterr().err
