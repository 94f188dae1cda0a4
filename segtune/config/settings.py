"""Strict settings from YAML: all mistakes are reported at once, with file, line and nearest name.

Knows no particular setting. `schema.py` puts together those of a config,
`tuning/search_config.py` declares those of a search.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from segtune.config.allowed import allowed_values
from segtune.config.hints import NULL_WORDS, other_format, way_out
from segtune.config.mmseg_names import mmseg_setting
from segtune.config.yaml_io import Source, Tree, with_numbers_as_keys
from segtune.errors import ConfigError, nearest

# Names of union branches (`int`, `literal['auto']`, `tuple[...]`) that pydantic adds to a location.
UNION_BRANCH = re.compile(r"^(str|int|float|bool|list|tuple|literal|constrained|function|dict)\b")
# A variable of the environment in a path: $HOME or ${HOME}.
VARIABLE = re.compile(r"\$(\{\w+\}|[A-Za-z_]\w*)")


def expand_path(path: str) -> str:
    """Return a path that a user wrote, with the home folder for `~` and `~user`.

    Raises ValueError if it is empty. If nothing on disk has this name, it raises ValueError for a
    variable such as $HOME, for blanks at either end, and for a word that means no value, too.
    """
    expanded = os.path.expanduser(path)
    if not expanded:
        raise ValueError("is empty; write . for the current folder")
    if os.path.lexists(expanded):
        return expanded
    if expanded.startswith("~") and os.path.dirname(expanded):
        raise ValueError(f"there is no user of the name in {path!r}; write the path out")
    if variable := VARIABLE.search(expanded):
        raise ValueError(
            f"{variable.group()} in {path!r} is not replaced by its value; write the path out, or "
            f'let the shell do it: --set "NAME={path}"'
        )
    if expanded != expanded.strip():
        raise ValueError(f"{path!r} begins or ends with a blank; remove it")
    if expanded.lower() in NULL_WORDS:
        raise ValueError(
            f"{path!r} would be a file of this name; write null or leave the setting out for no "
            f"value, and ./{path} for the file"
        )
    return expanded


PathText = Annotated[str, AfterValidator(expand_path)]
Share = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """A frozen block of settings. Unknown names are errors; types and ranges are not coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, tree: Any, source: Source | None = None) -> Self:
        """Validate a tree of plain values. Raises ConfigError that lists all mistakes."""
        source = source or Source(cls.__name__)
        if not isinstance(tree, dict):
            found = "text" if isinstance(tree, str) else type(tree).__name__
            text = f"expected names and values, found {found}"
            text += other_format(tree) if isinstance(tree, str) else ""
            raise ConfigError([source.problem("", text)])
        try:
            # Through JSON, because pydantic's strict mode accepts a JSON list for a tuple.
            # It also ensures that settings can be sent to other processes as plain JSON.
            return cls.model_validate_json(json.dumps(_nested(cls, tree), default=str))
        except ValidationError as error:
            details = _one_per_name(error.errors())
            raise ConfigError([_explain(cls, detail, source) for detail in details]) from None

    def override(self, changes: Mapping[str, Any], source: Source | None = None) -> Self:
        """Return a copy with {dotted name: value} set, validated as a whole. Raises ConfigError.

        A mapping for a section that is always there, such as {"optim": {"lr": 1e-3}}, changes the
        settings that it names and leaves the others as they are.
        """
        source = source or Source("override")
        names = type(self).names()
        changes = dict(_by_setting(changes, names))
        problems = [
            source.problem(name, f"no such setting{nearest_setting(name, names)}")
            for name in changes
            if name not in names
        ]
        problems += [
            source.problem(name, f"is a section; name a setting of it, for example {name}.{first}")
            for name, first in _emptied_sections(changes, names)
        ]
        if problems:
            raise ConfigError(problems)
        tree = self.dump()
        for name, value in changes.items():
            set_value(tree, name, value)
        return self.parse(tree, source)

    def dump(self) -> Tree:
        """Return the settings as plain JSON values."""
        return self.model_dump(mode="json", by_alias=True)

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
        """Return {dotted name: field} of all settings and sections.

        A setting whose name is a word of Python, such as `class`, has it as an alias.
        """
        fields: dict[str, FieldInfo] = {}
        for attribute, field in cls.model_fields.items():
            name = field.alias or attribute
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


def _nested(cls: type[Settings], tree: Mapping[str, Any]) -> Tree:
    """Return `tree` with dotted names as sections, and with {} for sections that are null.

    A section is null if all lines below its name are comments.
    """
    nested: Tree = {}
    for name, value in tree.items():
        first, dot, rest = str(name).partition(".")
        if not (dot or value is None or isinstance(value, dict)):
            nested[name] = value
            continue
        field = cls.model_fields.get(first)
        section = section_of(field.annotation) if field else None
        if field is None or section is None:
            nested[name] = value
            continue
        if dot:
            value = {rest: value}
        elif value is None and section is field.annotation:
            value = {}
        if isinstance(value, dict):
            value = _nested(section, value)
            earlier = nested.get(first)
            value = _merged(earlier, value) if isinstance(earlier, dict) else value
        nested[first] = value
    return nested


def _merged(ours: Tree, theirs: Tree) -> Tree:
    merged = dict(ours)
    for name, value in theirs.items():
        both = isinstance(merged.get(name), dict) and isinstance(value, dict)
        merged[name] = _merged(merged[name], value) if both else value
    return merged


def _by_setting(
    changes: Mapping[str, Any], names: Mapping[str, FieldInfo]
) -> Iterator[tuple[str, Any]]:
    """Yield the changes; one of a section that is always there as one for each of its settings."""
    for name, value in changes.items():
        field = names.get(name) if isinstance(value, dict) and value else None
        if field and section_of(field.annotation) is field.annotation:
            inner = {f"{name}.{key}": part for key, part in value.items()}
            yield from _by_setting(inner, names)
        else:
            yield name, value


def _emptied_sections(
    changes: Mapping[str, Any], names: Mapping[str, FieldInfo]
) -> Iterator[tuple[str, str]]:
    """Yield the name and the first setting of each section that is changed to null or {}.

    Either would set every setting of the section back to its default.
    """
    for name, value in changes.items():
        if name not in names or not (value is None or value == {}):
            continue
        section = section_of(names[name].annotation)
        if section and section is names[name].annotation:
            yield name, next(iter(section.model_fields))


def set_value(tree: Tree, dotted: str, value: Any) -> None:
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
    our_values = values_by_name(ours.dump())
    their_values = values_by_name(theirs.dump())
    return [
        Difference(name, our_values.get(name), their_values.get(name))
        for name in our_values | their_values
        if our_values.get(name) != their_values.get(name)
    ]


def values_by_name(tree: Tree, prefix: str = "") -> Tree:
    """Return {dotted name: value} of everything in a tree except sections."""
    values: Tree = {}
    for name, value in tree.items():
        # The keys of a section are names; a setting that is a mapping has whole numbers.
        plain = with_numbers_as_keys(value) if isinstance(value, dict) else value
        if isinstance(plain, dict) and all(isinstance(key, str) for key in plain):
            values |= values_by_name(plain, f"{prefix}{name}.")
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
    if error["type"] == "string_type" and isinstance(error["input"], list):
        # The user wrote a list where text is allowed too, and an item of the list is wrong.
        return any(
            _dotted(other["loc"]).startswith(f"{name}.") and other is not error for other in errors
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
        case "json_invalid":
            return source.problem(dotted, "nested too deeply")
        case "extra_forbidden":
            return source.problem(dotted, f"no such setting{nearest_setting(dotted, fields)}")
        case "value_error":
            return source.problem(dotted, str(error.get("ctx", {}).get("error")))
        case "missing" if dotted in fields:
            return source.problem(dotted, "must be given")
        case "missing":  # an item of a list of fixed length
            dotted = dotted.rpartition(".")[0]
    # The items of a list (`data.crop.0`) have no field of their own.
    field = fields.get(dotted) or fields.get(dotted.rpartition(".")[0])
    is_item = dotted not in fields
    allowed = allowed_values(field) if field else error["msg"]
    value = error["input"]
    near = nearest(str(value), allowed.split(" | ")) if " | " in allowed else ""
    if isinstance(value, str) and field and value in _optional_section(field):
        near = f"; write {value} as a section: {{{value}: {{}}}}"
    hint = near or way_out(value, allowed.rpartition("list of ")[2] if is_item else allowed)
    return source.problem(dotted, f"allowed is {allowed}; got {value!r}{hint}")


def _optional_section(field: FieldInfo) -> Iterable[str]:
    """Return the names of the settings of a section that may be absent; empty for other fields."""
    section = section_of(field.annotation)
    return section.model_fields if section and section is not field.annotation else ()


def nearest_setting(name: str, names: Iterable[str]) -> str:
    """Return `; did you mean 'optim.lr'?` for `lr`, `Optim.LR` or `optim.l`; empty for others."""
    names = list(names)
    plain = name.lower().replace("-", "_")
    same = [known for known in names if known == plain or known.endswith(f".{plain}")]
    if same and name not in names:
        listed = " or ".join(f"'{known}'" for known in same[:3])
        return f"; did you mean {listed}?"
    return mmseg_setting(plain, names) or nearest(plain, names)
