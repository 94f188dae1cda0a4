"""Read and write YAML, with the numbers of YAML 1.2 and the line of every key for messages."""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from segtune.config.characters import decode_text, odd_character, refuse_control_characters
from segtune.config.hints import other_format
from segtune.errors import ConfigError, nearest

log = logging.getLogger(__name__)

Tree = dict[str, Any]

MAX_CHARACTERS = 1 << 20

# Reasons of PyYAML, and plain reasons with the way out.
PLAIN_REASONS = {
    r"found character '\\t'": "a tab; indent with spaces",
    r"found character '([@`%])'": "text that begins with {} needs quotes",
    r"another document": "a second document begins here (---); expected one",
    r"mapping values are not allowed": "a colon that was not expected: indent the line like its "
    "neighbours, and put quotes around text that has a colon and a space",
    r"constructor for the tag 'tag:yaml.org,2002:(.+)'": "the tag !!{} is not supported; "
    "write plain values, and a list as [a, b]",
    r"constructor for the tag '(.+)'": "the tag {} is not supported; write plain values",
    r"unknown escape character": "in double quotes a backslash begins an escape: use single "
    "quotes, or / in paths",
    r"unhashable key": "braces inside braces, as in a template; put quotes around text with braces",
    r"unexpected end of stream": "a quote is not closed",
    r"but got '<stream end>'": "a bracket is not closed",
    r"expected alphabetic or numeric character, but found '%'": "text that begins with % needs "
    "quotes",
}


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
_FLOAT = (
    "tag:yaml.org,2002:float",
    re.compile(
        # With a leading zero it is text: the octal 010 of YAML 1.1 is 8, that of YAML 1.2 is 10.
        r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"
        r"|[-+]?\.(inf|Inf|INF)$"
        r"|\.(nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)
_Loader.add_implicit_resolver(*_FLOAT)


def parse_yaml(text: str, name: str) -> tuple[Any, Source]:
    """Parse YAML text into plain values and the line of every dotted key. Keys are text.

    `name` is the file's name in messages. Raises ConfigError if the text is not YAML, is longer
    than 2^20 characters, or has duplicate keys, aliases, or characters that look like others.
    """
    value, lines, node = _parse(text, name)
    return (value if node else {}), Source(name, lines)


def _parse(text: str, name: str) -> tuple[Any, dict[str, int], yaml.Node | None]:
    """Return the value of a YAML text, the lines of its keys, and its node; None if it is empty."""
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(
            [f"{name}: longer than {MAX_CHARACTERS} characters; this is not a settings file"]
        )
    refuse_control_characters(text, name)
    try:
        _refuse_aliases(text, name)
        loader = _Loader(text)
        node = loader.get_single_node()
        lines = _lines_of_keys(node, name)
        return (loader.construct_document(node) if node else None), lines, node
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: `!!int x`
        mark = getattr(error, "problem_mark", None)
        place = f"{name}:{mark.line + 1}" if mark else name
        reason = other_format(text).removeprefix("; ") or _plain_reason(error)
        raise ConfigError([f"{place}: not readable as YAML: {reason}"]) from None


def _plain_reason(error: Exception) -> str:
    """Return why a text is not YAML, in words that name the way out if it is known."""
    if isinstance(error, ValueError):
        return str(error)
    reason = getattr(error, "problem", None) or "nested too deeply"
    for pattern, plain in PLAIN_REASONS.items():
        if found := re.search(pattern, reason):
            return plain.format(*found.groups())
    return reason


def _refuse_aliases(text: str, name: str) -> None:
    """Raise ConfigError at the first alias: a few nested aliases can expand to gigabytes."""
    for token in yaml.scan(text, Loader=_Loader):
        if isinstance(token, yaml.AliasToken):
            place = f"{name}:{token.start_mark.line + 1}"
            raise ConfigError([f"{place}: alias *{token.value}: write the value out instead"])


def _lines_of_keys(node: yaml.Node | None, name: str) -> dict[str, int]:
    """Return {dotted key: line}. Raises ConfigError that lists all duplicate keys and odd texts."""
    lines: dict[str, int] = {}
    problems: list[str] = []
    for dotted, part in _parts(node) if node else ():
        line = part.start_mark.line + 1
        if isinstance(part, _Key):
            if dotted in lines:
                first = lines[dotted]
                problems.append(f"{name}:{line}: {dotted}: given twice, first on line {first}")
            lines[dotted] = line
        if isinstance(part.value, str) and (problem := odd_character(part.value)):
            problems.append(f"{name}:{line}: {problem}")
    if problems:
        raise ConfigError(problems)
    return lines


class _Key(yaml.ScalarNode):
    """A key of a mapping. It is text, also if it reads like a number, `on` or `null`."""


def _parts(node: yaml.Node, prefix: str = "") -> Iterator[tuple[str, yaml.Node]]:
    """Yield the dotted name and the node of every key and of every plain value.

    Keys inside lists are named `a.0.b`. Keys become text in passing.
    """
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _parts(item, f"{prefix}{index}.")
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield f"{prefix}{key.value}", _as_text_key(key)
            yield from _parts(value, f"{prefix}{key.value}.")
    else:
        yield prefix.rstrip("."), node


def _as_text_key(key: yaml.Node) -> yaml.Node:
    """Make a key text; return it as a `_Key`. A merge key and a key of several parts stay."""
    if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge"):
        key.tag = "tag:yaml.org,2002:str"
    return _Key(key.tag, str(key.value), key.start_mark, key.end_mark)


def read_yaml(path: str | Path, usual: Sequence[str] = ()) -> tuple[Any, Source]:
    """Read a YAML file; see `parse_yaml`. Raises ConfigError also if there is no such file.

    If `path` is a folder, the message names the first of the files `usual` that the folder holds.
    """
    path = Path(os.path.expanduser(path))
    if path.is_dir():
        raise ConfigError([f"{path}: is a folder; expected a YAML file{_files_in(path, usual)}"])
    if path.exists() and not path.is_file():
        raise ConfigError([f"{path}: is a pipe or a device; expected a YAML file"])
    if path.is_symlink() and not path.exists():
        raise ConfigError([f"{path}: is a link to {path.readlink()}, which does not exist"])
    if not path.exists():
        folder = path.parent if path.parent.is_dir() else Path()
        near = nearest(path.name, [p.name for p in folder.glob("*.y*ml")])
        raise ConfigError([f"{path}: no such file{near}"])
    try:
        text = decode_text(path.read_bytes(), str(path))
    except ValueError as error:
        raise ConfigError([str(error)]) from None
    value, lines, node = _parse(text, str(path))
    if node is None:
        raise ConfigError(
            [
                f"{path}: no settings, the file is empty or has only comments; {{}} is a config of "
                "defaults"
            ]
        )
    return value, Source(str(path), lines)


def _files_in(folder: Path, usual: Sequence[str]) -> str:
    """Return `; use runs/a/best.yaml`, `; it holds a.yaml, b.yaml`, or "" if it has no YAML."""
    for name in usual:
        if (folder / name).is_file():
            return f"; use {folder / name}"
    files = sorted(file.name for file in folder.glob("*.y*ml"))
    return f"; it holds {', '.join(files[:3])}" if files else ""


def write_yaml(tree: Tree, *, flow: bool = False) -> str:
    """Return `tree` as YAML text. Keys keep their order; lists of plain values take one line.

    With `flow`, everything is on one line.
    """
    return yaml.dump(
        json.loads(json.dumps(tree), object_hook=with_numbers_as_keys),
        Dumper=_Dumper,
        sort_keys=False,
        default_flow_style=flow,
        width=math.inf if flow else 140,
    )


def inline_yaml(value: Any) -> str:
    """Return a plain value as YAML on one line, such as `0.03` or `[a, b]`."""
    # A value alone ends with the mark `...` on a line of its own.
    text = write_yaml({"value": value}, flow=True).strip()
    return text.removeprefix("{value: ").removesuffix("}")


def comment_lines(text: str, comments: Mapping[str, str]) -> str:
    """Return the YAML text of a mapping with a comment for each of some dotted names.

    The comment is at the end of the line of the name. It is a line of its own above it if the line
    has 100 columns or more, because the value may go on in the next line. Names that the text does
    not have get no comment.
    """
    _, source = parse_yaml(text, "")
    lines = text.splitlines()
    for dotted, comment in comments.items():
        if number := source.lines.get(dotted):
            line = lines[number - 1]
            indent = " " * (len(line) - len(line.lstrip()))
            is_short = len(line) < 100
            lines[number - 1] = (
                f"{line}  # {comment}" if is_short else f"{indent}# {comment}\n{line}"
            )
    return "".join(f"{line}\n" for line in lines)


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
# Text such as 1e5, which is no number in YAML 1.1, gets quotes.
_Dumper.add_implicit_resolver(*_FLOAT)


def parse_assignments(assignments: Sequence[str]) -> tuple[Tree, Source]:
    """Parse `--set a.b=value` texts into {dotted name: value}. Values are read as YAML.

    A value has no comments: ` #` belongs to it. If a name is given twice, the last value counts,
    with a warning.
    """
    changes: Tree = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not equals or not name:
            raise ConfigError(
                [f"--set {text}: expected name=value, for example --set optim.lr=1e-4"]
            )
        if problem := odd_character(name):
            raise ConfigError([f"--set {text}: {problem}"])
        if name in changes:
            log.warning("--set %s is given twice: only the last one counts, %s", name, text)
        changes[name] = _assigned_value(name, value.strip(" \t\r\n\ufeff"))
    return changes, Source("--set")


def _assigned_value(name: str, text: str) -> Any:
    """Return the value of `--set name=text`."""
    place = f"--set {name}={text}"
    if not text:
        raise ConfigError(
            [
                f"{place}: no value after '='; write null for no value, or {name}='\"\"' for "
                "empty text"
            ]
        )
    try:
        value, _, node = _parse(text, place)
    except ConfigError as error:
        quoting = f"for text, write --set '{name}=\"…\"'"
        problems = [problem.replace(f"{place}:1:", f"{place}:", 1) for problem in error.problems]
        raise ConfigError([f"{problem}; {quoting}" for problem in problems]) from None
    if node is None or (isinstance(node, yaml.ScalarNode) and node.style in ("|", ">")):
        return text
    rest = text[node.end_mark.index :].strip()
    if rest and isinstance(node, yaml.ScalarNode) and not node.style:
        return text  # a path such as `data #2`: nothing of it is a comment
    if rest:
        raise ConfigError([f"{place}: there is more after the value: {rest!r}; remove it"])
    return value
