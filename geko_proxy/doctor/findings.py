"""What a check says: a finding has a remedy; what can't be seen from outside is said, too."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

import msgspec


class Level(Enum):
    """Whether it must be changed, or should."""

    FAULT = "fault"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """code: for programs; problem: what is wrong; why: it matters; change: the line to write, and where."""

    code: str
    problem: str
    why: str
    change: str
    level: Level = Level.FAULT


@dataclass(slots=True)
class Report:
    """What was found. checked: names of the checks that ran; unknown: what nobody can see from outside."""

    findings: list[Finding] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)

    def add(self, *findings: Finding) -> None:
        """Note findings."""
        self.findings += findings

    @property
    def failed(self) -> bool:
        """Whether something must be changed."""
        return any(each.level is Level.FAULT for each in self.findings)

    def as_text(self) -> str:
        """For people."""
        lines = []
        for each in self.findings:
            lines += [f"{each.level.value}: {each.problem} [{each.code}]", f"    why: {each.why}"]
            first, *rest = each.change.splitlines()
            lines += [f"    change: {first}", *(f"            {line}" for line in rest), ""]
        lines += [f"can't be seen: {text}" for text in self.unknown]
        faults = sum(each.level is Level.FAULT for each in self.findings)
        warnings = len(self.findings) - faults
        lines.append(f"{len(self.checked)} checks: {faults} faults, {warnings} warnings")
        return "\n".join(lines)

    def as_json(self) -> str:
        """For programs."""
        findings = [
            {
                "code": each.code,
                "level": each.level.value,
                "problem": each.problem,
                "why": each.why,
                "change": each.change,
            }
            for each in self.findings
        ]
        shown: dict[str, Any] = {
            "ok": not self.failed,
            "findings": findings,
            "unknown": self.unknown,
            "checked": self.checked,
        }
        return msgspec.json.format(msgspec.json.encode(shown), indent=2).decode()


def env(line: str) -> str:
    """A remedy in LibreChat's .env."""
    return f"in LibreChat's .env: {line}"


def yaml(*lines: str) -> str:
    """A remedy in librechat.yaml."""
    return "\n".join(("in librechat.yaml:", *lines))


def geko(setting: str) -> str:
    """A remedy in GEKO's settings."""
    return f"in GEKO's settings: {setting}"


MAKE_YAML: Final = "`geko librechat-config` writes the whole librechat.yaml for GEKO's settings"
