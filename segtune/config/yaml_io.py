"""Read and write YAML, with the numbers of YAML 1.2 and the line of every key for messages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from segtune.errors import ConfigError, nearest

Tree = dict[str, Any]

MAX_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class Source:
    """Where a tree of settings came from: the file's name, and the line of each dotted name."""

    name: str
    lines: Mapping[str, int] = field(default_factory=dict)

    def place(self, dotted: str) -> str:
        """Return `file:line: dotted.name`.

        If the name has no line, the line is that of its nearest parent. If the source has no name,
        the place is the dotted name alone.
        """
        parts = dotted.split(".") if dotted else []
        while parts and ".".join(parts) not in self.lines:
            parts.pop()
        line = self.lines.get(".".join(parts))
        file = f"{self.name}:{line}" if line else self.name
        return ": ".join(part for part in (file, dotted) if part)

    def problem(self, dotted: str, text: str) -> str:
        """Return `place: text`, a line for ConfigError."""
        place = self.place(dotted)
        return f"{place}: {text}" if place else text


class _Loader(yaml.SafeLoader):
    """SafeLoader with the numbers of YAML 1.2.

    `6e-5` is a number. `12:30` (the number 750 for PyYAML) and dates are text.
    """


_YAML_1_1_TAGS = ("tag:yaml.org,2002:float", "tag:yaml.org,2002:int", "tag:yaml.org,2002:timestamp")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _YAML_1_1_TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"
        r"|[-+]?\.(inf|Inf|INF)$"
        r"|\.(nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def parse_yaml(text: str, name: str) -> tuple[Any, Source]:
    """Parse YAML text into plain values and the line of every dotted key.

    `name` is the file's name in messages. Raises ConfigError if the text is not YAML, is longer
    than 2^20 characters, or has duplicate keys or aliases.
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(
            [f"{name}: longer than {MAX_CHARACTERS} characters; this is not a settings file"]
        )
    try:
        _refuse_aliases(text, name)
        loader = _Loader(text)
        node = loader.get_single_node()
        lines = _lines_of_keys(node, name)
        return (loader.construct_document(node) if node else {}), Source(name, lines)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{name}:{mark.line + 1}" if mark else name
        reason = getattr(error, "problem", None) or "nested too deeply"
        raise ConfigError([f"{place}: not readable as YAML: {reason}"]) from None


def _refuse_aliases(text: str, name: str) -> None:
    """Raise ConfigError at the first alias: a few nested aliases can expand to gigabytes."""
    for token in yaml.scan(text, Loader=_Loader):
        if isinstance(token, yaml.AliasToken):
            place = f"{name}:{token.start_mark.line + 1}"
            raise ConfigError([f"{place}: alias *{token.value}: write the value out instead"])


def _lines_of_keys(node: yaml.Node | None, name: str) -> dict[str, int]:
    """Return {dotted key: line}. Raises ConfigError that lists all duplicate keys."""
    lines: dict[str, int] = {}
    problems: list[str] = []
    for dotted, line in _keys(node) if node else ():
        if dotted in lines:
            problems.append(f"{name}:{line}: {dotted}: given twice, first on line {lines[dotted]}")
        lines[dotted] = line
    if problems:
        raise ConfigError(problems)
    return lines


def _keys(node: yaml.Node, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Yield the dotted name and the line of every key, also of keys inside lists (`a.0.b`)."""
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _keys(item, f"{prefix}{index}.")
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield f"{prefix}{key.value}", key.start_mark.line + 1
            yield from _keys(value, f"{prefix}{key.value}.")


def read_yaml(path: str | Path) -> tuple[Any, Source]:
    """Read a YAML file; see `parse_yaml`. Raises ConfigError also if there is no such file."""
    path = Path(path)
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path()
        near = nearest(path.name, [p.name for p in folder.glob("*.yaml")])
        raise ConfigError([f"{path}: no such file{near}"])
    try:
        return parse_yaml(path.read_text(encoding="utf-8-sig"), str(path))
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: not a text file in UTF-8"]) from None


def write_yaml(tree: Tree) -> str:
    """Return `tree` as YAML text. Keys keep their order; lists of plain values take one line."""
    return yaml.dump(
        json.loads(json.dumps(tree), object_hook=with_numbers_as_keys),
        Dumper=_Dumper,
        sort_keys=False,
        default_flow_style=False,
        width=140,
    )


def with_numbers_as_keys(tree: Tree) -> dict[Any, Any]:
    """Undo JSON's conversion of whole numbers as keys to text."""
    if not all(re.fullmatch(r"-?\d+", key) for key in tree):
        return tree
    return {int(key): value for key, value in tree.items()}


class _Dumper(yaml.SafeDumper):
    """SafeDumper that writes lists of plain values on one line."""


def _represent_list(dumper: yaml.SafeDumper, items: list[Any]) -> yaml.Node:
    is_nested = any(isinstance(item, (dict, list)) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=not is_nested)


_Dumper.add_representer(list, _represent_list)


def parse_assignments(assignments: Sequence[str]) -> tuple[Tree, Source]:
    """Parse `--set a.b=value` texts into {dotted name: value}. Values are read as YAML."""
    changes: Tree = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ConfigError(
                [f"--set {text}: expected name=value, for example --set optim.lr=1e-4"]
            )
        changes[name.strip()], _ = parse_yaml(value, f"--set {text}")
    return changes, Source("--set")
