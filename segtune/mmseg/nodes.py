"""The values of an mmengine config, each with the file and line that it was written on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from segtune.errors import ConfigError

# A few variables that contain one another can expand to any number of values.
MAX_NODES = 200_000
MAX_NESTING = 100


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
    name: str | None = None  # of an imported module, class or function

    def __str__(self) -> str:
        return f"{self.text} ({self.reason})"


@dataclass(eq=False, slots=True)
class Node:
    """A value with its place: {name: Node}, [Node], a plain value, or Unresolved.

    Two names may share a Node, as they share a dict in Python.
    """

    value: Any
    place: Place
    merges: bool = False  # a dict of a base file: mmengine's ConfigDict, which `update` merges

    @property
    def unresolved(self) -> Unresolved | None:
        """The reason why the value is not known, or None."""
        return self.value if isinstance(self.value, Unresolved) else None

    @property
    def is_container(self) -> bool:
        """Whether this is a dict or a list, which every name that shares it can change."""
        return isinstance(self.value, dict | list)

    @property
    def plain(self) -> Any:
        """The value with plain dicts and lists; Unresolved stays.

        Only for values that `check_size` has accepted.
        """
        if isinstance(self.value, dict):
            return {key: part.plain for key, part in self.value.items()}
        if isinstance(self.value, list):
            return [part.plain for part in self.value]
        return self.value


class Budget:
    """How many values may still be made."""

    def __init__(self) -> None:
        self.left = MAX_NODES

    def spend(self, place: Place, count: int = 1) -> None:
        """Count values. Raises ConfigError if they are more than MAX_NODES in all."""
        self.left -= count
        if self.left < 0:
            raise ConfigError(
                [f"{place}: more than {MAX_NODES} values; this is not a config of mmsegmentation"]
            )


def copied(node: Node, budget: Budget, depth: int = 0) -> Node:
    """Return a copy that shares nothing.

    Raises ConfigError if the budget is spent, or if values are nested deeper than MAX_NESTING.
    """
    budget.spend(node.place)
    check_nesting(node.place, depth)
    value = node.value
    if isinstance(value, dict):
        value = {key: copied(part, budget, depth + 1) for key, part in value.items()}
    elif isinstance(value, list):
        value = [copied(part, budget, depth + 1) for part in value]
    return Node(value, node.place, node.merges)


def check_size(node: Node) -> None:
    """Raise ConfigError if a value has more than MAX_NODES parts or is nested too deeply.

    A part that several names share counts once for each. A value that contains itself is refused.
    """
    budget = Budget()
    stack = [(node, 0)]
    while stack:
        part, depth = stack.pop()
        budget.spend(part.place)
        check_nesting(part.place, depth)
        stack += [(inner, depth + 1) for inner in _inner(part)]


def check_nesting(place: Place, depth: int) -> None:
    """Raise ConfigError if `depth` is above MAX_NESTING."""
    if depth > MAX_NESTING:
        raise ConfigError(
            [
                f"{place}: nested deeper than {MAX_NESTING} levels, or contains itself; this is "
                "not a config of mmsegmentation"
            ]
        )


def reachable(node: Node) -> list[Node]:
    """Return a value and all its parts, each one once."""
    nodes: dict[Node, None] = {}
    stack = [node]
    while stack:
        part = stack.pop()
        if part not in nodes:
            nodes[part] = None
            stack += _inner(part)
    return list(nodes)


def _inner(node: Node) -> list[Node]:
    if isinstance(node.value, dict):
        return list(node.value.values())
    return node.value if isinstance(node.value, list) else []


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
