"""How methods change the dicts and lists of a config, and how changes become unknown.

A dict of a base file is a ConfigDict in mmengine, as `Node.merges` says. Its `update` merges dicts
inside it, and what is put into it is copied. A dict of the file itself is a plain dict.
Source: mmengine/config/config.py, class ConfigDict.
"""

from __future__ import annotations

from segtune.mmseg.merging import merged
from segtune.mmseg.nodes import Budget, Node, Unresolved, check_nesting, copied, reachable
from segtune.mmseg.plain_values import check_length


def marked(node: Node) -> Node:
    """Mark every dict in a value as one of a base file; return the value."""
    for part in reachable(node):
        part.merges = isinstance(part.value, dict)
    return node


def spoil(node: Node, unknown: Unresolved, base: Node | None) -> None:
    """Make a dict or a list unknown with all dicts and lists in it, for every name that has it.

    The variables `base` of the base files keep their names.
    """
    for part in reachable(node):
        if part is base:
            part.value = {key: Node(unknown, inner.place) for key, inner in part.value.items()}
        elif part.is_container:
            part.value = unknown


def put(owner: Node, key: str, node: Node, budget: Budget) -> None:
    """Set an entry of a dict."""
    owner.value[key] = marked(copied(node, budget)) if _is_converted(owner, node) else node


def _is_converted(owner: Node, node: Node) -> bool:
    """Whether a dict of mmengine stores a copy: it converts plain dicts and every list."""
    return owner.merges and node.is_container and not node.merges


def change_dict(
    owner: Node, method: str, values: list[Node], named: dict[str, Node], budget: Budget
) -> bool:
    """Apply `update`, `merge`, `pop`, `setdefault` or `clear`; return whether it was possible."""
    if not isinstance(owner.value, dict):
        return False
    if method in ("update", "merge") and all(isinstance(node.value, dict) for node in values):
        for node in [*values, Node(named, owner.place)]:
            if method == "merge":
                owner.value = marked(merged(owner, node, budget)).value
            else:
                _update(owner, node, budget)
        return True
    if method == "pop" and not named:
        return popped(owner, values) is not None
    match method, values:
        case "setdefault", [Node(value=str() as key), value] if not named:
            if key not in owner.value:
                put(owner, key, value, budget)
            return True
        case "clear", [] if not named:
            owner.value.clear()
            return True
    return False


def _update(owner: Node, change: Node, budget: Budget, depth: int = 0) -> None:
    check_nesting(change.place, depth)
    for key, node in list(change.value.items()):
        earlier = owner.value.get(key)
        if not owner.merges or earlier is None or not isinstance(node.value, dict):
            put(owner, key, node, budget)
        elif isinstance(earlier.value, dict):
            _update(earlier, node, budget, depth + 1)
        elif not earlier.unresolved:  # else it stays unknown: it may be a dict
            put(owner, key, node, budget)


def change_list(owner: Node, method: str, values: list[Node], budget: Budget) -> bool:
    """Apply a method that changes a list in a known way; return whether it was possible."""
    items = owner.value
    if not isinstance(items, list):
        return False
    match method, values:
        case "append", [item]:
            items.append(item)
        case "extend", [Node(value=list() as more)]:
            check_length(len(items) + len(more))
            budget.spend(owner.place, len(more))
            items.extend(more)
        case "insert", [Node(value=int() as index), item]:
            items.insert(index, item)
        case "reverse", []:
            items.reverse()
        case "clear", []:
            items.clear()
        case "pop", _:
            return popped(owner, values) is not None
        case _:
            return False
    return True


def popped(owner: Node, values: list[Node]) -> Node | None:
    """Remove an item and return it; None if it is not known which one, or if there is none."""
    match owner.value, values:
        case dict() as entries, [Node(value=str() as key), *default] if len(default) <= 1:
            default_node = default[0] if default else Node(None, owner.place)
            if key in entries or default or owner.merges:
                return entries.pop(key, default_node)
        case list() as items, [] if items:
            return items.pop()
        case list() as items, [Node(value=int() as index)] if -len(items) <= index < len(items):
            return items.pop(index)
    return None
