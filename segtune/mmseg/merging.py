"""How a config changes its base files: mmengine's rules for `_base_` and `_delete_`."""

from __future__ import annotations

from collections.abc import Sequence

from segtune.errors import ConfigError
from segtune.mmseg.nodes import Budget, Node, check_nesting, copied

DELETE = "_delete_"


def joined_bases(bases: Sequence[Node], file: str) -> Node:
    """Return the variables of several base files together.

    Raises ConfigError if two of them set the same variable, as mmengine does.
    """
    names: dict[str, Node] = {}
    for base in bases:
        for name, node in base.value.items():
            if name in names:
                raise ConfigError(
                    [
                        f"{file}: _base_: {name} is set by two base files, at {names[name].place} "
                        f"and {node.place}; mmengine refuses this too, remove one of the two"
                    ]
                )
            names[name] = node
    return Node(names, bases[0].place)


def merged(base: Node, own: Node, budget: Budget, depth: int = 0) -> Node:
    """Return `base` with the values of `own`: dicts are merged, everything else is replaced.

    A dict with `_delete_=True` replaces the dict of the base. A dict over a value that is not known
    is not known either. Raises ConfigError if a dict would change something that is not a dict.
    """
    check_nesting(own.place, depth)
    entries = dict(base.value)
    for name, node in own.value.items():
        earlier = entries.get(name)
        if earlier is None or not isinstance(node.value, dict) or _deletes(node):
            entries[name] = without_deletes(node, budget)
        elif isinstance(earlier.value, dict):
            entries[name] = merged(earlier, node, budget, depth + 1)
        elif not earlier.unresolved:
            raise ConfigError(
                [
                    f"{node.place}: {name} is a dict here and not in the base file "
                    f"({earlier.place}); mmengine refuses this too, add _delete_=True to the dict"
                ]
            )
    entries.pop(DELETE, None)
    return Node(entries, own.place if not base.value else base.place, base.merges)


def without_deletes(node: Node, budget: Budget) -> Node:
    """Return a copy of a value without the marks `_delete_`."""
    copy = copied(node, budget)
    stack = [copy]
    while stack:
        value = stack.pop().value
        if isinstance(value, dict):
            value.pop(DELETE, None)
            stack += value.values()
        elif isinstance(value, list):
            stack += value
    return copy


def _deletes(node: Node) -> bool:
    mark = node.value.get(DELETE)
    return mark is not None and mark.value is True
