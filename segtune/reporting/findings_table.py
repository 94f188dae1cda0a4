"""The findings of `segtune check` as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from segtune.checks.findings import Section, errors_of

STYLES = {"error": "bold red", "warning": "yellow"}


def print_sections(sections: Sequence[Section], console: Console) -> None:
    """Print what each check has looked at, then all findings, errors first."""
    for section in sections:
        console.print(f"{section.name}: {section.about}", markup=False, highlight=False)
        if section.details:
            console.print(_details(section))
    found = [(section.name, f) for section in sections for f in section.findings]
    if not found:
        return
    table = Table("severity", "check", "setting", "finding", title="findings", show_lines=True)
    table.title_justify = "left"
    for name, finding in sorted(found, key=lambda pair: pair[1].severity != "error"):
        text = f"{finding.problem}\nwhy: {finding.reason}\nway out: {finding.way_out}"
        severity = Text(finding.severity, STYLES[finding.severity])
        table.add_row(severity, name, Text(finding.key), Text(text))
    console.print(table)


def _details(section: Section) -> Table:
    columns = list(section.details[0])
    table = Table(*columns)
    for row in section.details:
        table.add_row(*(Text(str(row[column])) for column in columns))
    return table


def summary(sections: Sequence[Section]) -> str:
    """Return how many errors and warnings there are, in one line."""
    findings = [finding for section in sections for finding in section.findings]
    errors = len(errors_of(findings))
    return f"{_count(errors, 'error')}, {_count(len(findings) - errors, 'warning')}"


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
