"""Python expressions to values, without running code: literals, names, arithmetic, text.

Only a fixed set of operations is computed here, each with a limit on its result. Everything else is
`Unresolved`.
"""

from __future__ import annotations

import ast
import os
import re
from collections import ChainMap
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from segtune.mmseg.changes import popped
from segtune.mmseg.nodes import MAX_NESTING, Node, Place, copied
from segtune.mmseg.plain_values import (
    BINARY,
    OF_LISTS,
    PURE,
    UNARY,
    CannotResolve,
    binary,
    cause,
    check_length,
    checked,
    flat,
    formatted,
    in_f_string,
    joined,
    joined_path,
    scalar,
    truth,
)
from segtune.mmseg.scope import NOT_EXECUTED, Scope, as_text, unresolved

REFERENCE = re.compile(r"\{\{\s*([\w.$:/-]+)\s*\}\}")
HIDDEN = "may be replaced by what is unpacked here, which is not known"


def evaluate(tree: ast.expr, scope: Scope, depth: int = 0) -> Node:
    """Return the value of an expression; Unresolved if only running it could give one.

    Raises ConfigError if the config makes too many values.
    """
    scope.budget.spend(scope.place(tree))
    if depth > MAX_NESTING:
        return unresolved(tree, scope, "nested too deeply")
    try:
        return _Evaluator(scope, depth + 1).node(tree)
    except CannotResolve as error:
        return unresolved(tree, scope, str(error))
    except (ValueError, TypeError, ArithmeticError, LookupError) as error:
        # Python would raise the same error if it ran the file.
        return unresolved(tree, scope, f"Python would refuse this: {error}")


class _Evaluator:
    """Values of expressions at one depth."""

    def __init__(self, scope: Scope, depth: int) -> None:
        self.scope = scope
        self.depth = depth

    def node(self, tree: ast.expr) -> Node:
        """Return the value. Raises CannotResolve, or what Python would raise."""
        place = self.scope.place(tree)
        match tree:
            case ast.Constant(value=str() as text):
                return self._text(text, place)
            case ast.Constant(value=value):
                return Node(value, place)
            case ast.Name():
                return self._name(tree)
            case ast.List(elts=items) | ast.Tuple(elts=items):
                return Node(self._items(items), place)
            case ast.Dict():
                return Node(self._literal_dict(tree), place)
            case ast.Set(elts=[ast.Set(elts=[inner])]):
                return Node(self._reference(as_text(inner), place).value, place)
            case ast.Call():
                return self._call(tree, place)
            case ast.ListComp():
                return self._comprehension(tree, place)
            case ast.Attribute(value=owner, attr=name):
                return self._attribute(owner, name, tree)
            case ast.Subscript(value=owner, slice=index):
                return self._item(owner, index)
            case ast.IfExp(test=test, body=body, orelse=other):
                return self._evaluate(body if truth(self._evaluate(test)) else other)
            case ast.NamedExpr(value=value):
                return self._evaluate(value)  # Statements makes the variable unknown
            case ast.BoolOp(op=sign, values=values):
                return self._deciding(values, until=isinstance(sign, ast.Or))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return Node(not truth(self._evaluate(operand)), place)
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in BINARY:
                return self._binary(sign, left, right, place)
        return Node(self._computed(tree), place)

    def _evaluate(self, tree: ast.expr) -> Node:
        return evaluate(tree, self.scope, self.depth)

    def _plain(self, tree: ast.expr) -> Any:
        """Return a number, a text, a truth value or None. Raises CannotResolve for others."""
        return scalar(self._evaluate(tree))

    def _deciding(self, values: list[ast.expr], until: bool) -> Node:
        """Return the operand that decides `or` (`until` is True) or `and`, or the last one."""
        for value in values[:-1]:
            node = self._evaluate(value)
            if truth(node) == until:
                return node
        return self._evaluate(values[-1])

    def _name(self, tree: ast.Name) -> Node:
        if tree.id == "_base_" and self.scope.base is not None:
            return self.scope.base
        if tree.id not in self.scope.names:
            raise CannotResolve(f"the file sets no variable {tree.id} above this line")
        node = self.scope.names[tree.id]
        if node.unresolved and node.unresolved.name:
            # A class has the place where it is used, not that of its import.
            return Node(node.value, self.scope.place(tree))
        return node

    def _items(self, items: list[ast.expr]) -> list[Node]:
        nodes: list[Node] = []
        for item in items:
            if isinstance(item, ast.Starred):
                inner = self._evaluate(item.value)
                if not isinstance(inner.value, list):
                    raise CannotResolve("* before something that is not a known list")
                self.scope.budget.spend(inner.place, len(inner.value))
                nodes += inner.value
            else:
                nodes.append(self._evaluate(item))
        return nodes

    def _literal_dict(self, tree: ast.Dict) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        for key, value in zip(tree.keys, tree.values, strict=True):
            if key is None:
                more = self._unpacked(value)
                if any(name.startswith("**") for name in more):
                    # It may have any of the keys before it.
                    entries = {name: unresolved(value, self.scope, HIDDEN) for name in entries}
                entries |= more
            else:
                entries[str(self._plain(key))] = self._evaluate(value)
        return entries

    def _unpacked(self, tree: ast.expr) -> dict[str, Node]:
        """Return the entries of `**tree`; a key `**tree` if they are not known."""
        node = self._evaluate(tree)
        if isinstance(node.value, dict):
            self.scope.budget.spend(node.place, len(node.value))
            return dict(node.value)
        return {f"**{as_text(tree)}": node}

    def _call(self, tree: ast.Call, place: Place) -> Node:
        if isinstance(tree.func, ast.Name) and tree.func.id in self.scope.names:
            tree_name = self.scope.names[tree.func.id].unresolved
            if tree_name is None or tree_name.name != "deepcopy":
                raise CannotResolve(f"a call of {tree.func.id}; {NOT_EXECUTED}")
        match tree.func, tree.args:
            case ast.Name(id="dict"), _:
                return self._dict_call(tree, place)
            case ast.Name(id="list" | "tuple"), [argument] if not tree.keywords:
                node = self._evaluate(argument)
                if isinstance(node.value, list):
                    return self._shallow(node, place)
            case ast.Name(id="range"), arguments if not tree.keywords:
                numbers = range(*map(self._plain, arguments))
                check_length(len(numbers))
                self.scope.budget.spend(place, len(numbers))
                return Node([Node(number, place) for number in numbers], place)
            case ast.Name(id="len"), [argument] if not tree.keywords:
                node = self._evaluate(argument)
                return Node(len(node.value if node.is_container else scalar(node)), place)
            case ast.Name(id=name), arguments if name in PURE and not tree.keywords:
                argument = flat if name in OF_LISTS else scalar
                values = (argument(self._evaluate(tree)) for tree in arguments)
                return Node(checked(PURE[name](*values)), place)
            case ast.Name(id="deepcopy") | ast.Attribute(attr="deepcopy"), [argument]:
                return copied(self._evaluate(argument), self.scope.budget)
            case ast.Attribute(attr="join"), parts if as_text(tree.func) in (
                "osp.join",
                "os.path.join",
            ):
                return Node(joined_path([self._plain(part) for part in parts]), place)
            case ast.Attribute(value=owner, attr=method), _:
                return self._method(owner, method, tree)
        raise CannotResolve(f"a call of {as_text(tree.func)}; {NOT_EXECUTED}")

    def _dict_call(self, tree: ast.Call, place: Place) -> Node:
        entries: dict[str, Node] = {}
        for argument in tree.args:
            entries |= self._unpacked(argument)
        for keyword in tree.keywords:
            if keyword.arg is None:
                entries |= self._unpacked(keyword.value)
            else:
                entries[keyword.arg] = self._evaluate(keyword.value)
        return Node(entries, place)

    def _method(self, owner: ast.expr, method: str, tree: ast.Call) -> Node:
        """Return the result of a method that reads a value, or of `pop`."""
        node = self._evaluate(owner)
        is_module = node.unresolved is not None and node.unresolved.name == "copy"
        match method, tree.args:
            case "format", arguments if isinstance(node.value, str):
                named = {str(k.arg): self._plain(k.value) for k in tree.keywords if k.arg}
                values = [self._plain(argument) for argument in arguments]
                return Node(formatted(node.value, values, named), node.place)
            case "copy", [argument] if is_module:
                return self._shallow(self._evaluate(argument), self.scope.place(tree))
            case "copy", [] if node.is_container:
                return self._shallow(node, self.scope.place(tree))
            case "get", [key, *default] if isinstance(node.value, dict) and not tree.keywords:
                found = node.value.get(str(self._plain(key)))
                other = self._evaluate(default[0]) if default else Node(None, node.place)
                return found if found is not None else other
            case "pop", arguments if node.is_container and not tree.keywords:
                values = [self._evaluate(argument) for argument in arguments]
                found = popped(node, values)
                if found is not None:
                    self.scope.followed.add(tree)
                    return found
        raise CannotResolve(f"a call of {as_text(tree.func)}; {NOT_EXECUTED}")

    def _shallow(self, node: Node, place: Place) -> Node:
        """Return a copy of a dict or a list with the same parts, as Python's `copy` does."""
        if not node.is_container:
            return node
        self.scope.budget.spend(place, len(node.value))
        return Node(node.value.copy(), place, node.merges)

    def _comprehension(self, tree: ast.ListComp, place: Place) -> Node:
        if len(tree.generators) != 1 or tree.generators[0].ifs:
            raise CannotResolve("a comprehension with more than one `for`, or with `if`")
        generator = tree.generators[0]
        items = self._evaluate(generator.iter)
        if not isinstance(items.value, list) or not isinstance(generator.target, ast.Name):
            raise CannotResolve("a comprehension over something that is not a known list")
        nodes: list[Node] = []
        for item in items.value:
            # A ChainMap: to copy all names for each item would take time items x names.
            names = ChainMap({generator.target.id: item}, self.scope.names)
            nodes.append(evaluate(tree.elt, replace(self.scope, names=names), self.depth))
        return Node(nodes, place)

    def _attribute(self, owner: ast.expr, name: str, tree: ast.expr) -> Node:
        node = self._evaluate(owner)
        if isinstance(node.value, dict) and name in node.value:
            return node.value[name]
        if node.unresolved:
            # `models.EncoderDecoder` of an imported module: the name is known, the object is not.
            known = name if node.unresolved.name else None
            return unresolved(tree, self.scope, node.unresolved.reason, known)
        raise CannotResolve(f"{as_text(owner)} has no {name!r}")

    def _item(self, owner: ast.expr, index: ast.expr) -> Node:
        node = self._evaluate(owner)
        if node.unresolved:
            raise CannotResolve(cause(node.unresolved))
        if isinstance(index, ast.Slice):
            bounds = [None if p is None else self._plain(p) for p in (index.lower, index.upper)]
            if isinstance(node.value, list) and index.step is None:
                items = node.value[slice(*bounds)]
                self.scope.budget.spend(node.place, len(items))
                return Node(items, node.place)
            raise CannotResolve("a slice with a step, or of something that is not a list")
        key = self._plain(index)
        found = node.value[str(key) if isinstance(node.value, dict) else key]
        return found if isinstance(found, Node) else Node(found, node.place)

    def _computed(self, tree: ast.expr) -> Any:
        """Return a number, or text with values in it."""
        match tree:
            case ast.UnaryOp(op=sign, operand=operand) if type(sign) in UNARY:
                return UNARY[type(sign)](self._plain(operand))
            case ast.JoinedStr(values=parts):
                return joined(self._part(part) for part in parts)
        raise CannotResolve(NOT_EXECUTED)

    def _binary(self, sign: ast.operator, left: ast.expr, right: ast.expr, place: Place) -> Node:
        first, second = self._evaluate(left), self._evaluate(right)
        if not isinstance(first.value, list) and not isinstance(second.value, list):
            return Node(binary(sign, scalar(first), scalar(second)), place)
        items: list[Node]
        match sign, first.value, second.value:
            case ast.Add(), list() as before, list() as after:
                check_length(len(before) + len(after))
                items = before + after
            case (ast.Mult(), list() as part, int() as times) | (
                ast.Mult(),
                int() as times,
                list() as part,
            ):
                check_length(len(part) * times)
                items = part * times
            case _:
                raise CannotResolve("a list can only be added to a list, or repeated")
        self.scope.budget.spend(place, len(items))
        return Node(items, place)

    def _part(self, part: ast.expr) -> str:
        """Return a part of an f-string."""
        if isinstance(part, ast.Constant):
            return str(part.value)
        if not isinstance(part, ast.FormattedValue) or part.conversion != -1:
            raise CannotResolve("a conversion in an f-string")
        spec = "" if part.format_spec is None else self._plain(part.format_spec)
        return in_f_string(self._plain(part.value), spec)

    def _text(self, text: str, place: Place) -> Node:
        """Return text with mmengine's {{references}} filled in."""
        if whole := REFERENCE.fullmatch(text):
            return Node(self._reference(whole[1], place).value, place)
        check_length(len(text))
        return Node(joined(self._filled_in(text, place)), place)

    def _filled_in(self, text: str, place: Place) -> Iterator[str]:
        end = 0
        for match in REFERENCE.finditer(text):
            yield text[end : match.start()]
            yield str(scalar(self._reference(match[1], place)))
            end = match.end()
        yield text[end:]

    def _reference(self, name: str, place: Place) -> Node:
        """Return the value of `{{_base_.a.b}}`, `{{fileDirname}}` or `{{$VARIABLE}}`.

        `{{$VARIABLE:default}}` is filled in before the file is parsed, as mmengine does.
        """
        if name.startswith("_base_."):
            tree = ast.parse(name, mode="eval").body
            node = evaluate(tree, self.scope, self.depth)
            if node.unresolved:
                raise CannotResolve(f"{name}: {node.unresolved.reason}")
            return copied(node, self.scope.budget)
        if name.startswith("$"):
            variable = name[1:].partition(":")[0]
            if variable not in os.environ:
                raise CannotResolve(f"the environment has no variable {variable}")
            return Node(os.environ[variable], place)
        if name in self.scope.predefined:
            return Node(self.scope.predefined[name], place)
        raise CannotResolve("no variable of mmengine")
