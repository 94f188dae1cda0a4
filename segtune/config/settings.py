"""Strict settings from YAML: all mistakes are reported at once, with file, line and nearest name.

Knows no particular setting. `schema.py` declares those of a config, `tuning/study.py` those of a
search.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from segtune.config.allowed import allowed_values
from segtune.config.yaml_io import Source, Tree, with_numbers_as_keys
from segtune.errors import ConfigError, nearest

# Names of union branches (`int`, `literal['auto']`, `tuple[...]`) that pydantic adds to a location.
UNION_BRANCH = re.compile(r"^(str|int|float|bool|list|tuple|literal|constrained|function|dict)\b")


class Settings(BaseModel):
    """A frozen block of settings. Unknown names are errors; types and ranges are not coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, tree: Any, source: Source | None = None) -> Self:
        """Validate a tree of plain values. Raises ConfigError that lists all mistakes."""
        source = source or Source(cls.__name__)
        if not isinstance(tree, dict):
            text = f"expected names and values, found {type(tree).__name__}"
            raise ConfigError([source.problem("", text)])
        try:
            # Through JSON, because pydantic's strict mode accepts a JSON list for a tuple.
            # It also ensures that settings can be sent to other processes as plain JSON.
            return cls.model_validate_json(json.dumps(tree, default=str))
        except ValidationError as error:
            details = _one_per_name(error.errors())
            raise ConfigError([_explain(cls, detail, source) for detail in details]) from None

    def override(self, changes: Mapping[str, Any], source: Source | None = None) -> Self:
        """Return a copy with {dotted name: value} set, validated as a whole. Raises ConfigError."""
        source = source or Source("override")
        names = type(self).names()
        problems = [
            source.problem(name, f"no such setting{nearest(name, names)}")
            for name in changes
            if name not in names
        ]
        if problems:
            raise ConfigError(problems)
        tree = self.dump()
        for name, value in changes.items():
            _set_value(tree, name, value)
        return self.parse(tree, source)

    def dump(self) -> Tree:
        """Return the settings as plain JSON values."""
        return self.model_dump(mode="json")

    def get(self, dotted: str) -> Any:
        """Return the plain value of a dotted name; None inside a section that is absent.

        Raises KeyError if there is no such name.
        """
        value: Any = self.dump()
        for part in dotted.split("."):
            value = value[part] if isinstance(value, dict) else None
        return value

    @classmethod
    def names(cls, prefix: str = "") -> dict[str, FieldInfo]:
        """Return {dotted name: field} of all settings and sections."""
        fields: dict[str, FieldInfo] = {}
        for name, field in cls.model_fields.items():
            fields[prefix + name] = field
            section = section_of(field.annotation)
            if section:
                fields |= section.names(f"{prefix}{name}.")
        return fields


def section_of(annotation: Any) -> type[Settings] | None:
    """Return the Settings class of a field that is a section or may be one, otherwise None."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, Settings):
            return candidate
    return None


def _set_value(tree: Tree, dotted: str, value: Any) -> None:
    """Set the value of a dotted name in `tree`."""
    *parents, last = dotted.split(".")
    for parent in parents:
        if not isinstance(tree.get(parent), dict):
            tree[parent] = {}  # an optional section that is null or a word
        tree = tree[parent]
    tree[last] = value


@dataclass(frozen=True)
class Difference:
    """A setting that has different values in two blocks of the same class."""

    name: str
    ours: Any  # None also if the setting's section is absent
    theirs: Any

    def __str__(self) -> str:
        return f"{self.name}: {self.ours} here, {self.theirs} there"


def differences(ours: Settings, theirs: Settings) -> list[Difference]:
    """Return every setting in which two blocks of the same class differ."""
    our_values = _values_by_name(ours.dump())
    their_values = _values_by_name(theirs.dump())
    return [
        Difference(name, our_values.get(name), their_values.get(name))
        for name in our_values | their_values
        if our_values.get(name) != their_values.get(name)
    ]


def _values_by_name(tree: Tree, prefix: str = "") -> Tree:
    """Return {dotted name: value} of everything in a tree except sections."""
    values: Tree = {}
    for name, value in tree.items():
        # The keys of a section are names; a setting that is a mapping has whole numbers.
        plain = with_numbers_as_keys(value) if isinstance(value, dict) else value
        if isinstance(plain, dict) and all(isinstance(key, str) for key in plain):
            values |= _values_by_name(plain, f"{prefix}{name}.")
        else:
            values[prefix + name] = plain
    return values


def _one_per_name(errors: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Keep the first error of each name; pydantic reports one for every branch of a union.

    If a setting takes a word or a section, drop the error of the branch the user did not choose.
    """
    by_name: dict[str, ErrorDetails] = {}
    for error in errors:
        if not _is_of_other_branch(error, errors):
            by_name.setdefault(_dotted(error["loc"]), error)
    return list(by_name.values())


def _is_of_other_branch(error: ErrorDetails, errors: Sequence[ErrorDetails]) -> bool:
    """Whether the error is about a word and the user wrote a section, or the other way round."""
    name = _dotted(error["loc"])
    if error["type"] == "literal_error" and isinstance(error["input"], dict):
        return any(
            other is not error and f"{_dotted(other['loc'])}.".startswith(f"{name}.")
            for other in errors
        )
    return error["type"].startswith("model_") and any(
        other["type"] == "literal_error" and _dotted(other["loc"]) == name for other in errors
    )


def _dotted(location: Sequence[Any]) -> str:
    """Return pydantic's location as a dotted name, without the names of union branches."""
    return ".".join(
        str(part) for part in location if not (isinstance(part, str) and UNION_BRANCH.match(part))
    )


def _explain(cls: type[Settings], error: ErrorDetails, source: Source) -> str:
    """Return a pydantic error as `place: what is wrong; what is allowed; nearest name`."""
    dotted = _dotted(error["loc"])
    fields = cls.names()
    match error["type"]:
        case "extra_forbidden":
            return source.problem(dotted, f"no such setting{nearest(dotted, fields)}")
        case "value_error":
            return source.problem(dotted, str(error.get("ctx", {}).get("error")))
        case "missing":
            return source.problem(dotted, "must be given")
    # The items of a list (`data.crop.0`) have no field of their own.
    field = fields.get(dotted) or fields.get(dotted.rpartition(".")[0])
    allowed = allowed_values(field) if field else error["msg"]
    value = error["input"]
    near = nearest(str(value), allowed.split(" | ")) if " | " in allowed else ""
    return source.problem(dotted, f"allowed is {allowed}; got {value!r}{near}")
