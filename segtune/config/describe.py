"""All settings as a table: name, what it takes, default, meaning. Prints nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic.fields import FieldInfo

from segtune.config.allowed import allowed_values
from segtune.config.settings import Settings, section_of


class DescribedSetting(NamedTuple):
    """One setting, as text."""

    name: str
    takes: str
    default: str  # as JSON
    meaning: str


def describe(settings: type[Settings]) -> list[DescribedSetting]:
    """Return one row for each setting.

    A section has a row of its own only if it may be absent or replaced by a word.
    """
    defaults = settings()
    return [
        DescribedSetting(
            name,
            allowed_values(field),
            json.dumps(_default(defaults, name, field)),
            field.description or "",
        )
        for name, field in settings.names().items()
        if section_of(field.annotation) is not field.annotation
    ]


def _default(defaults: Settings, name: str, field: FieldInfo) -> Any:
    """Return a setting's default.

    In an optional section, this is the default that it has once the section is present.
    """
    section = name.rpartition(".")[0]
    if section and not isinstance(defaults.get(section), dict):
        return field.get_default(call_default_factory=True)
    value = defaults.get(name)
    if isinstance(value, dict):
        return {key: part for key, part in value.items() if part is not None}
    return value


def markdown(blocks: Mapping[str, type[Settings]]) -> str:
    """Return docs/config.md: a table of settings for each {title: settings class}."""
    head = "# Every setting\n\nMade by `segtune config --markdown`; a test keeps it current."
    return "\n\n".join([head, *(_section(*block) for block in blocks.items())])


def _section(title: str, settings: type[Settings]) -> str:
    lines = [
        f"## {title}",
        "",
        "| name | takes | default | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for row in describe(settings):
        name, takes, default, meaning = (cell.replace("|", r"\|") for cell in row)
        lines.append(f"| `{name}` | {takes} | `{default}` | {meaning} |")
    return "\n".join(lines)
