"""YAML in and out: numbers of YAML 1.2, and the line of every key for messages."""

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

MAX_YAML_BYTES = 1 << 20


@dataclass(frozen=True)
class Source:
    """Where a tree of settings came from: a name for messages, and the line of each dotted name."""

    name: str
    lines: Mapping[str, int] = field(default_factory=dict)

    def place(self, dotted: str) -> str:
        """Returns `file:line: dotted.name`, with the line of the nearest parent where the name itself has none."""
        parts = dotted.split(".") if dotted else []
        while parts and ".".join(parts) not in self.lines:
            parts.pop()
        line = self.lines.get(".".join(parts))
        where = f"{self.name}:{line}" if line else self.name
        return f"{where}: {dotted}" if dotted else where


class _Loader(yaml.SafeLoader):
    """SafeLoader with the numbers of YAML 1.2: `6e-5` is one, `12:30` (750 for PyYAML) and dates are not."""


_YAML_1_1 = ("tag:yaml.org,2002:float", "tag:yaml.org,2002:int", "tag:yaml.org,2002:timestamp")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _YAML_1_1]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def parse_yaml(text: str, name: str) -> tuple[Any, Source]:
    """Reads YAML text into plain values and the line of every dotted key; `name` stands in messages.

    Raises ConfigError for what YAML cannot read, and for duplicate keys, aliases and texts over 1 MiB.
    """
    if len(text) > MAX_YAML_BYTES:
        raise ConfigError(
            [f"{name}: larger than {MAX_YAML_BYTES} bytes; this is not a settings file"]
        )
    try:
        for token in yaml.scan(text, Loader=_Loader):
            if isinstance(token, yaml.AliasToken):
                raise ConfigError(
                    [
                        f"{name}:{token.start_mark.line + 1}: alias *{token.value}: write the value out instead"
                    ]
                )
        loader = _Loader(text)
        node = loader.get_single_node()
        lines: dict[str, int] = {}
        problems = list(_visit(node, "", lines, name)) if node else []
        if problems:
            raise ConfigError(problems)
        return (loader.construct_document(node) if node else {}), Source(name, lines)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        raise ConfigError(
            [
                f"{where}: not readable as YAML: {getattr(error, 'problem', None) or 'nested too deeply'}"
            ]
        ) from None


def _visit(node: yaml.Node, prefix: str, lines: dict[str, int], name: str) -> Iterator[str]:
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _visit(item, f"{prefix}.{index}" if prefix else str(index), lines, name)
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        dotted = f"{prefix}.{key.value}" if prefix else str(key.value)
        line = key.start_mark.line + 1
        if dotted in lines:
            yield f"{name}:{line}: {dotted}: given twice, first on line {lines[dotted]}"
        lines[dotted] = line
        yield from _visit(value, dotted, lines, name)


def read_yaml(path: str | Path) -> tuple[Any, Source]:
    """Reads a YAML file as `parse_yaml` does. Raises ConfigError where there is no such file."""
    path = Path(path)
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path()
        near = nearest(path.name, [p.name for p in folder.glob("*.yaml")])
        raise ConfigError([f"{path}: no such file{near}"])
    try:
        return parse_yaml(path.read_text(encoding="utf-8-sig"), str(path))
    except UnicodeDecodeError:
        raise ConfigError([f"{path}: not a text file"]) from None


def write_yaml(tree: Tree) -> str:
    """Returns `tree` as YAML: keys in their order, short lists on one line."""
    return yaml.dump(
        json.loads(json.dumps(tree)),
        Dumper=_Dumper,
        sort_keys=False,
        default_flow_style=False,
        width=140,
    )


class _Dumper(yaml.SafeDumper):
    """SafeDumper that keeps lists of scalars on one line."""


_Dumper.add_representer(
    list,
    lambda dumper, items: dumper.represent_sequence(
        "tag:yaml.org,2002:seq",
        items,
        flow_style=not any(isinstance(i, (dict, list)) for i in items),
    ),
)


def parse_assignments(assignments: Sequence[str]) -> tuple[Tree, Source]:
    """Turns `--set a.b=value` texts into {dotted name: value}; values are read as YAML."""
    changes: Tree = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ConfigError(
                [f"--set {text}: expected name=value, for example --set optim.lr=1e-4"]
            )
        changes[name.strip()], _ = parse_yaml(value, f"--set {text}")
    return changes, Source("--set")
