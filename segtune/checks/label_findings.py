"""One thing that is wrong or suspicious about the files of a data set, and how to repair it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from segtune.checks.findings import Finding, Severity

# Errors make scores wrong or end the training. Warnings are probably not meant. Good data sets have
# notes too.
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class LabelFinding(Finding):
    """A finding about images and masks. docs/your-data.md has the rules.

    `key` is the setting of the split, or "" if the text names a file or both splits. `way_out` is
    "" if there is nothing to do.
    """

    count: int = 1  # files, classes or pairs that it is about
    files: Sequence[str] = ()  # the first of them
    values: Mapping[int, int] = field(default_factory=dict)  # pixels of each wrong value

    def __str__(self) -> str:
        """Return the finding in one line, without the reason."""
        key = f"{self.key}: " if self.key else ""
        way_out = f"; {self.way_out}" if self.way_out else ""
        return f"{key}{self.problem}{way_out}"

    def dump(self) -> dict[str, Any]:
        """Return the finding as plain JSON values."""
        tree = {**vars(self), "files": list(self.files)}
        return {**tree, "values": {str(value): self.values[value] for value in sorted(self.values)}}


def by_severity(findings: Iterable[LabelFinding]) -> list[LabelFinding]:
    """Return the findings with errors first; those of equal severity stay in their order."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def split_way_out(text: str) -> tuple[str, str]:
    """Return what is wrong and the way out, which messages of segtune separate by a semicolon."""
    problem, _, way_out = text.partition("; ")
    return problem, way_out
