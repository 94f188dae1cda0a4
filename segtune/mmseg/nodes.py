"""The values of an mmengine config, each with the file and line that it was written on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from segtune.errors import ConfigError

# A few variables that contain one another can expand to any number of values.
MAX_NODES = 200_000


@dataclass(frozen=True)
class Place:
    """Where a value was written."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Unresolved:
    """A value that only running the code could give."""

    text: str  # the expression
    reason: str
    name: str | None = None  # of an imported class or function

    def __str__(self) -> str:
        return f"{self.text} ({self.reason})"


@dataclass
class Node:
    """A value with its place: {name: Node}, [Node], a plain value, or Unresolved.

    Two names may share a Node, as they share a dict in Python.
    """

    value: Any
    place: Place

    @property
    def unresolved(self) -> Unresolved | None:
        """The reason why the value is not known, or None."""
        return self.value if isinstance(self.value, Unresolved) else None

    @property
    def plain(self) -> Any:
        """The value with plain dicts and lists; Unresolved stays."""
        if isinstance(self.value, dict):
            return {key: part.plain for key, part in self.value.items()}
        if isinstance(self.value, list):
            return [part.plain for part in self.value]
        return self.value


def copied(node: Node) -> Node:
    """Return a copy that shares nothing. Raises ConfigError above MAX_NODES values."""
    budget = [MAX_NODES]
    return _copied(node, budget)


def _copied(node: Node, budget: list[int]) -> Node:
    budget[0] -= 1
    if budget[0] < 0:
        raise ConfigError(
            [f"{node.place}: more than {MAX_NODES} values; this is not a config of mmsegmentation"]
        )
    if isinstance(node.value, dict):
        return Node({key: _copied(part, budget) for key, part in node.value.items()}, node.place)
    if isinstance(node.value, list):
        return Node([_copied(part, budget) for part in node.value], node.place)
    return Node(node.value, node.place)


def children(node: Node, key: str = "") -> Iterator[tuple[str, Node]]:
    """Yield the key and the value of every part; nothing for a leaf.

    The keys are `a.b` and `a[0]`. An empty dict, a list of plain values and a plain value are
    leaves.
    """
    if isinstance(node.value, dict):
        for name, part in node.value.items():
            yield (f"{key}.{name}" if key else name), part
    elif isinstance(node.value, list) and any(isinstance(p.value, dict | list) for p in node.value):
        for index, part in enumerate(node.value):
            yield f"{key}[{index}]", part


def leaves(node: Node, key: str = "") -> Iterator[tuple[str, Node]]:
    """Yield the key and the value of every leaf; see `children`."""
    parts = list(children(node, key))
    if not parts and key:
        yield key, node
    for name, part in parts:
        yield from leaves(part, name)
