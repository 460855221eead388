"""`geko doctor` as it is called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from geko_proxy.__main__ import main


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "geko.toml"
    path.write_text('version = 1\n[librechat]\nurl = "http://127.0.0.1:9"\n')
    return str(path)


def test_says_what_to_change_and_fails(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", config, "doctor"]) == 1
    text = capsys.readouterr().out
    assert "fault: LibreChat does not answer" in text
    assert "change: in GEKO's settings: librechat.url" in text
    assert "can't be seen: whether anybody but GEKO reaches LibreChat's port" in text


def test_is_read_by_programs(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", config, "doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert {"settings", "database", "unreachable"} <= {each["code"] for each in report["findings"]}
    assert all(each.keys() == {"code", "level", "problem", "why", "change"} for each in report["findings"])
