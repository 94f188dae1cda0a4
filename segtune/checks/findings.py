"""What a check reports: one finding with its numbers, its reason and the way out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a study, or is probably not meant."""

    severity: Severity
    rule: str  # name of the rule, such as "warmup"
    key: str  # the setting, or the part of the study, that it is about
    problem: str  # what is wrong, with numbers
    reason: str  # why it matters, with a source
    way_out: str  # the exact setting or command

    def __str__(self) -> str:
        """Return the finding in one line, as a message for the user."""
        return f"{self.key}: {self.problem}; {self.reason}; {self.way_out}"

    def dump(self) -> dict[str, Any]:
        """Return the finding as plain JSON values."""
        return asdict(self)


def percent(share: float) -> str:
    """Return a share in 0..1 as a whole number of per cent."""
    return f"{100 * share:.0f} %"


@dataclass(frozen=True)
class Section:
    """The findings of one check, and what it has looked at."""

    name: str
    about: str  # what was looked at, in one line
    findings: Sequence[Finding]
    details: Sequence[dict[str, Any]] = ()  # plain JSON values, one row for each thing


def errors_of(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that are errors."""
    return [finding for finding in findings if finding.severity == "error"]


def relaxed(findings: Iterable[Finding], rule: str) -> list[Finding]:
    """Return the findings; those of a rule as warnings."""
    return [replace(f, severity="warning") if f.rule == rule else f for f in findings]


def shown_value(value: Any) -> str:
    """Return the value of a setting as a user writes it, of transforms only the names."""
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return " + ".join(str(item.get("name")) for item in value)
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    return f"{value:.3g}" if isinstance(value, float) else str(value)
