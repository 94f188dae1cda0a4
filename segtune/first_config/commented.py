"""YAML with comments: a line of text above a key. Knows no setting."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from segtune.config.yaml_io import Tree, parse_yaml, write_yaml

WIDTH = 100


def commented_yaml(tree: Tree, head: str, comments: Mapping[str, str]) -> str:
    """Return a tree as YAML, with `head` as the first comment and {dotted name: comment} of keys.

    A comment on a name that the tree lacks is left out.
    """
    text = write_yaml(tree)
    _, source = parse_yaml(text, "")
    above = {line: name for name, line in list(source.lines.items())[::-1]}
    lines = _wrapped(head, "")
    for number, line in enumerate(text.splitlines(), 1):
        comment = comments.get(above.get(number, ""))
        indent = line[: len(line) - len(line.lstrip())]
        lines += _wrapped(comment, indent) if comment else []
        lines.append(line)
    return "\n".join(lines) + "\n"


def _wrapped(comment: str, indent: str) -> list[str]:
    lines = [part for text in comment.splitlines() for part in textwrap.wrap(text, WIDTH - 10)]
    return [f"{indent}# {line}" for line in lines]
