"""Strict settings from YAML: every mistake is told at once, with file, line, law, value and nearest name.

Knows no particular setting; `config.py` and `study.py` say what there is.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from segtune.config.yaml_io import Source, Tree
from segtune.errors import ConfigError, nearest


class Settings(BaseModel):
    """A frozen block of settings: unknown names are refused, types and ranges are checked without coercion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, tree: Any, source: Source | None = None) -> Self:
        """Validates a tree of plain values. Raises ConfigError that lists every mistake with its place."""
        source = source or Source(cls.__name__)
        if not isinstance(tree, dict):
            raise ConfigError(
                [f"{source.name}: expected names and values, found {type(tree).__name__}"]
            )
        try:
            # Through JSON: in strict mode a list is a tuple there, and all that crosses a process is plain JSON.
            return cls.model_validate_json(json.dumps(tree, default=str))
        except ValidationError as error:
            raise ConfigError(
                [_explain(cls, detail, source) for detail in _distinct(error.errors())]
            ) from None

    def override(self, changes: Mapping[str, Any], source: Source | None = None) -> Self:
        """Returns a copy with {dotted name: value} set, validated as a whole. Raises ConfigError."""
        source = source or Source("override")
        tree, problems = self.dump(), []
        allowed = type(self).names()
        for dotted, value in changes.items():
            if dotted not in allowed:
                problems.append(
                    f"{source.place(dotted)}: no such setting{nearest(dotted, allowed)}"
                )
                continue
            *parents, last = dotted.split(".")
            branch = tree
            for parent in parents:
                if not isinstance(branch[parent], dict):
                    branch[parent] = {}  # a section that is left out, or a word in its place
                branch = branch[parent]
            branch[last] = value
        if problems:
            raise ConfigError(problems)
        return self.parse(tree, source)

    def dump(self) -> Tree:
        """Returns the settings as plain JSON values."""
        return self.model_dump(mode="json")

    def get(self, dotted: str) -> Any:
        """Returns the plain value under a dotted name, which must exist; None inside a section that is left out."""
        value: Any = self.dump()
        for part in dotted.split("."):
            value = value[part] if isinstance(value, dict) else None
        return value

    @classmethod
    def names(cls, prefix: str = "") -> dict[str, FieldInfo]:
        """Returns every dotted name and its field, sections included."""
        found: dict[str, FieldInfo] = {}
        for name, info in cls.model_fields.items():
            found[prefix + name] = info
            section = section_of(info.annotation)
            if section:
                found |= section.names(f"{prefix}{name}.")
        return found


def section_of(annotation: Any) -> type[Settings] | None:
    """Returns the Settings class of a field that is a section (also an optional one), otherwise None."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, Settings):
            return candidate
    return None


def differences(ours: Settings, theirs: Settings) -> list[str]:
    """Returns `name: ours, theirs` for every setting in which two blocks of one kind differ."""
    a, b = _leaves(ours.dump()), _leaves(theirs.dump())
    return [
        f"{name}: {a.get(name)} here, {b.get(name)} there"
        for name in dict.fromkeys([*a, *b])
        if a.get(name) != b.get(name)
    ]


def _leaves(tree: Tree, prefix: str = "") -> Tree:
    """Returns {dotted name: value} of everything in a tree that is no section itself."""
    found: Tree = {}
    for name, value in tree.items():
        found |= (
            _leaves(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else {prefix + name: value}
        )
    return found


def allowed_values(info: FieldInfo) -> str:
    """Returns in words what a field takes: its choices, or its type and range."""
    bounds = _bounds(info.metadata)
    return _words(info.annotation) + (f" {bounds}" if bounds else "")


def _words(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(str(a) for a in args)
    if origin in (Union, types.UnionType):
        return " | ".join(_words(a) for a in args)
    if origin is tuple:
        return (
            "list of " + _words(args[0])
            if args[-1] is Ellipsis
            else "[" + ", ".join(_words(a) for a in args) + "]"
        )
    if hasattr(annotation, "__metadata__"):
        inner, *metadata = args
        bounds = _bounds(
            [
                m
                for extra in metadata
                for m in (extra.metadata if isinstance(extra, FieldInfo) else [extra])
            ]
        )
        return _words(inner) + (f" {bounds}" if bounds else "")
    plain = {
        float: "number",
        int: "whole number",
        str: "text",
        bool: "true | false",
        type(None): "null",
    }
    return plain.get(annotation) or getattr(annotation, "__name__", str(annotation))


def _bounds(metadata: Sequence[Any]) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    return ", ".join(
        f"{sign} {getattr(m, key)}"
        for m in metadata
        for key, sign in signs.items()
        if getattr(m, key, None) is not None
    )


def _distinct(errors: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Keeps one error per name: a union reports each of its branches. Of a word or a section the one that was not meant is left out."""
    words = {
        _dotted(e["loc"])
        for e in errors
        if e["type"] == "literal_error" and not isinstance(e["input"], dict)
    }
    meant = [
        e
        for e in errors
        if not (e["type"] == "literal_error" and isinstance(e["input"], dict))
        and not (e["type"].startswith("model_") and _dotted(e["loc"]) in words)
    ]
    return list({_dotted(e["loc"]): e for e in reversed(meant or errors)}.values())[::-1]


def _dotted(location: Sequence[Any]) -> str:
    """Drops the names of union branches (`int`, `literal['auto']`, `tuple[...]`) that pydantic adds to a location."""
    branch = re.compile(r"^(str|int|float|bool|list|tuple|literal|constrained|function|dict)\b")
    return ".".join(str(p) for p in location if not (isinstance(p, str) and branch.match(p)))


def _explain(cls: type[Settings], detail: ErrorDetails, source: Source) -> str:
    dotted = _dotted(detail["loc"])
    place = source.place(dotted)
    names = cls.names()
    if detail["type"] == "extra_forbidden":
        return f"{place}: no such setting{nearest(dotted, names)}"
    if detail["type"] == "value_error":
        return f"{place}: {detail.get('ctx', {}).get('error')}"
    if detail["type"] == "missing":
        return f"{place}: must be given"
    info = names.get(dotted) or names.get(dotted.rpartition(".")[0])
    if info and section_of(info.annotation):
        return f"{place}: {detail['msg']}" + (
            ", or settings" if detail["type"] == "literal_error" else ""
        )
    value = detail["input"]
    allowed = allowed_values(info) if info else detail["msg"]
    near = nearest(str(value), allowed.split(" | ")) if " | " in allowed else ""
    return f"{place}: allowed is {allowed}; got {value!r}{near}"
