"""Every setting as a table: name, allowed values, default, meaning."""

from __future__ import annotations

import json
from typing import Any

from pydantic.fields import FieldInfo

from segtune.config.settings import Settings, allowed_values, section_of


def describe(settings: type[Settings]) -> list[tuple[str, str, str, str]]:
    """Returns (name, allowed, default, meaning) of every setting, for tables."""
    defaults = settings()
    return [
        (
            name,
            allowed_values(info),
            json.dumps(_default(defaults, name, info)),
            info.description or "",
        )
        for name, info in settings.names().items()
        if not section_of(info.annotation)
    ]


def _default(defaults: Settings, name: str, info: FieldInfo) -> Any:
    """Returns the value of a name that nobody gives; of one in a section that is left out, the value once the section is there."""
    section = defaults.get(name.rpartition(".")[0]) if "." in name else {}
    return (
        defaults.get(name)
        if isinstance(section, dict)
        else info.get_default(call_default_factory=True)
    )
