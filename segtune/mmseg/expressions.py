"""Python expressions to values, without running code: literals, names, arithmetic, text.

Only a fixed set of operations is computed here, each with a limit on its result. Everything else is
`Unresolved`.
"""

from __future__ import annotations

import ast
import operator
import os
import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from segtune.mmseg.nodes import Node, Place, Unresolved, copied

# Limits on what an expression may make: `10 ** 10 ** 10` and `[0] * 10 ** 9` would fill the memory.
MAX_EXPONENT = 64
MAX_DIGITS = 300
MAX_LENGTH = 10_000
MAX_DEPTH = 100
BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}
# Builtins of numbers and text, which cannot do anything but compute.
PURE: dict[str, Callable[..., Any]] = {
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "abs": abs,
    "round": round,
    "min": min,
    "max": max,
    "sum": sum,
    "len": len,
}
REFERENCE = re.compile(r"\{\{\s*([\w.$:/-]+)\s*\}\}")
FORMAT_SPEC = re.compile(r"[<>^]?0?\d{0,2}(\.\d{1,2})?[dfegs%]?")
NOT_EXECUTED = "segtune reads the file and does not run its code"


class _CannotResolve(Exception):
    """Raised inside an expression; becomes an Unresolved of the whole expression."""


@dataclass
class Scope:
    """The names of one file: its variables, its base files, mmengine's predefined variables."""

    file: str
    names: dict[str, Node] = field(default_factory=dict)
    base: Node | None = None
    predefined: Mapping[str, str] = field(default_factory=dict)

    def place(self, tree: ast.AST) -> Place:
        """Return the file and line of a part of the file."""
        return Place(self.file, getattr(tree, "lineno", 1))


def unresolved(tree: ast.AST, scope: Scope, reason: str, name: str | None = None) -> Node:
    """Return the Unresolved of an expression."""
    text = ast.unparse(tree)
    text = text if len(text) <= 60 else f"{text[:57]}..."
    return Node(Unresolved(text, reason, name), scope.place(tree))


def evaluate(tree: ast.expr, scope: Scope, depth: int = 0) -> Node:
    """Return the value of an expression; Unresolved if only running it could give one."""
    if depth > MAX_DEPTH:
        return unresolved(tree, scope, "nested too deeply")
    try:
        return _Evaluator(scope, depth + 1).node(tree)
    except _CannotResolve as error:
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
        """Return the value. Raises _CannotResolve, or what Python would raise."""
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
                return Node(self._reference(ast.unparse(inner), place).value, place)
            case ast.Call():
                return self._call(tree, place)
            case ast.ListComp():
                return self._comprehension(tree, place)
            case ast.Attribute(value=owner, attr=name):
                return self._attribute(owner, name, tree)
            case ast.Subscript(value=owner, slice=index):
                return self._item(owner, index)
            case ast.IfExp(test=test, body=body, orelse=other):
                return self._evaluate(body if self._plain(test) else other)
        return Node(self._computed(tree), place)

    def _evaluate(self, tree: ast.expr) -> Node:
        return evaluate(tree, self.scope, self.depth)

    def _plain(self, tree: ast.expr) -> Any:
        """Return a plain value. Raises _CannotResolve with the reason of the part at fault."""
        return _known(self._evaluate(tree))

    def _name(self, tree: ast.Name) -> Node:
        if tree.id == "_base_" and self.scope.base is not None:
            return self.scope.base
        if tree.id not in self.scope.names:
            raise _CannotResolve(f"the file sets no variable {tree.id} above this line")
        return self.scope.names[tree.id]

    def _items(self, items: list[ast.expr]) -> list[Node]:
        nodes: list[Node] = []
        for item in items:
            if isinstance(item, ast.Starred):
                inner = self._evaluate(item.value)
                nodes += inner.value if isinstance(inner.value, list) else [inner]
            else:
                nodes.append(self._evaluate(item))
        return nodes

    def _literal_dict(self, tree: ast.Dict) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        for key, value in zip(tree.keys, tree.values, strict=True):
            if key is None:
                entries |= self._unpacked(value)
            else:
                entries[str(self._plain(key))] = self._evaluate(value)
        return entries

    def _unpacked(self, tree: ast.expr) -> dict[str, Node]:
        """Return the entries of `**tree`; a key `**tree` if they are not known."""
        node = self._evaluate(tree)
        if isinstance(node.value, dict):
            return dict(node.value)
        return {f"**{ast.unparse(tree)}": node}

    def _call(self, tree: ast.Call, place: Place) -> Node:
        match tree.func:
            case ast.Name(id="dict"):
                entries: dict[str, Node] = {}
                for argument in tree.args:
                    entries |= self._unpacked(argument)
                for keyword in tree.keywords:
                    named = keyword.arg is not None
                    value = keyword.value
                    entries |= (
                        {str(keyword.arg): self._evaluate(value)}
                        if named
                        else self._unpacked(value)
                    )
                return Node(entries, place)
            case ast.Name(id="list" | "tuple") if len(tree.args) == 1 and not tree.keywords:
                node = self._evaluate(tree.args[0])
                if isinstance(node.value, list):
                    return Node(list(node.value), place)
            case ast.Name(id="range") if not tree.keywords:
                numbers = range(*(self._plain(argument) for argument in tree.args))
                _check_length(len(numbers))
                return Node([Node(number, place) for number in numbers], place)
            case ast.Name(id=name) if name in PURE and not tree.keywords:
                return Node(PURE[name](*map(self._small, tree.args)), place)
            case ast.Attribute(value=owner, attr="format"):
                return Node(self._formatted(owner, tree), place)
            case ast.Attribute(value=owner, attr="copy" | "deepcopy"):
                source = tree.args[0] if tree.args else owner
                return copied(self._evaluate(source))
            case ast.Name(id="deepcopy") if len(tree.args) == 1:
                return copied(self._evaluate(tree.args[0]))
            case ast.Attribute(attr="join") if ast.unparse(tree.func) in (
                "osp.join",
                "os.path.join",
            ):
                return Node(posixpath.join(*map(self._plain, tree.args)), place)
        raise _CannotResolve(f"a call of {ast.unparse(tree.func)}; {NOT_EXECUTED}")

    def _small(self, tree: ast.expr) -> Any:
        value = self._plain(tree)
        if isinstance(value, str | list):
            _check_length(len(value))
        return value

    def _formatted(self, owner: ast.expr, tree: ast.Call) -> str:
        text = self._plain(owner)
        keywords = {str(k.arg): self._plain(k.value) for k in tree.keywords if k.arg}
        if not isinstance(text, str) or re.search(r"\{[^{}]*[.\[:!]", text):
            raise _CannotResolve("only {} and {name} are filled in")
        return text.format(*map(self._plain, tree.args), **keywords)

    def _comprehension(self, tree: ast.ListComp, place: Place) -> Node:
        if len(tree.generators) != 1 or tree.generators[0].ifs:
            raise _CannotResolve("a comprehension with more than one `for`, or with `if`")
        generator = tree.generators[0]
        items = self._evaluate(generator.iter)
        if not isinstance(items.value, list) or not isinstance(generator.target, ast.Name):
            raise _CannotResolve("a comprehension over something that is not a known list")
        _check_length(len(items.value))
        nodes: list[Node] = []
        for item in items.value:
            names = {**self.scope.names, generator.target.id: item}
            scope = Scope(self.scope.file, names, self.scope.base, self.scope.predefined)
            nodes.append(evaluate(tree.elt, scope, self.depth))
        return Node(nodes, place)

    def _attribute(self, owner: ast.expr, name: str, tree: ast.expr) -> Node:
        node = self._evaluate(owner)
        if isinstance(node.value, dict) and name in node.value:
            return node.value[name]
        if node.unresolved:
            # `models.EncoderDecoder` of an imported module: the name is known, the object is not.
            return unresolved(tree, self.scope, node.unresolved.reason, name)
        raise _CannotResolve(f"{ast.unparse(owner)} has no {name!r}")

    def _item(self, owner: ast.expr, index: ast.expr) -> Node:
        node = self._evaluate(owner)
        if node.unresolved:
            raise _CannotResolve(f"{node.unresolved.text}: {node.unresolved.reason}")
        if isinstance(index, ast.Slice):
            bounds = [None if p is None else self._plain(p) for p in (index.lower, index.upper)]
            if isinstance(node.value, list) and index.step is None:
                return Node(node.value[slice(*bounds)], node.place)
            raise _CannotResolve("a slice with a step, or of something that is not a list")
        key = self._plain(index)
        found = node.value[str(key) if isinstance(node.value, dict) else key]
        return found if isinstance(found, Node) else Node(found, node.place)

    def _computed(self, tree: ast.expr) -> Any:
        """Return the plain value of arithmetic or of text with values in it."""
        match tree:
            case ast.UnaryOp(op=sign, operand=operand) if type(sign) in UNARY:
                return UNARY[type(sign)](self._plain(operand))
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in BINARY:
                return self._binary(sign, left, right, self.scope.place(tree))
            case ast.BoolOp(op=sign, values=values):
                plain = [self._plain(value) for value in values]
                return all(plain) if isinstance(sign, ast.And) else any(plain)
            case ast.JoinedStr(values=parts):
                return "".join(self._part(part) for part in parts)
        raise _CannotResolve(NOT_EXECUTED)

    def _binary(self, sign: ast.operator, left: ast.expr, right: ast.expr, place: Place) -> Any:
        first, second = self._evaluate(left), self._evaluate(right)
        if isinstance(first.value, list) and isinstance(second.value, list):
            if isinstance(sign, ast.Add):
                return first.value + second.value
            raise _CannotResolve("lists can only be added")
        a, b = _known(first), _known(second)
        if isinstance(sign, ast.Pow) and abs(b) > MAX_EXPONENT:
            raise _CannotResolve(f"an exponent above {MAX_EXPONENT}")
        for many, times in ((a, b), (b, a)):
            if isinstance(many, str | list) and isinstance(times, int):
                _check_length(len(many) * times)
        if isinstance(a, str) and isinstance(sign, ast.Mod):
            raise _CannotResolve("text with %")
        value = BINARY[type(sign)](a, b)
        if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
            raise _CannotResolve(f"a number of more than {MAX_DIGITS} digits")
        return [Node(item, place) for item in value] if isinstance(value, list) else value

    def _part(self, part: ast.expr) -> str:
        """Return a part of an f-string."""
        if isinstance(part, ast.Constant):
            return str(part.value)
        if not isinstance(part, ast.FormattedValue) or part.conversion != -1:
            raise _CannotResolve("a conversion in an f-string")
        spec = "" if part.format_spec is None else self._plain(part.format_spec)
        if not FORMAT_SPEC.fullmatch(spec):
            raise _CannotResolve(f"the format {spec!r} in an f-string")
        return format(self._plain(part.value), spec)

    def _text(self, text: str, place: Place) -> Node:
        """Return text with mmengine's {{references}} filled in."""
        if whole := REFERENCE.fullmatch(text):
            return Node(self._reference(whole[1], place).value, place)
        if len(text) > MAX_LENGTH:
            raise _CannotResolve(f"text of more than {MAX_LENGTH} characters")
        return Node(
            REFERENCE.sub(lambda match: str(self._reference(match[1], place).plain), text), place
        )

    def _reference(self, name: str, place: Place) -> Node:
        """Return the value of `{{_base_.a.b}}`, `{{fileDirname}}` or `{{$VARIABLE:default}}`."""
        if name.startswith("_base_."):
            tree = ast.parse(name, mode="eval").body
            node = evaluate(tree, self.scope, self.depth)
            if node.unresolved:
                raise _CannotResolve(f"{name}: {node.unresolved.reason}")
            return copied(node)
        if name.startswith("$"):
            variable, colon, default = name[1:].partition(":")
            if variable not in os.environ and not colon:
                raise _CannotResolve(f"the environment has no variable {variable}")
            return Node(os.environ.get(variable, default), place)
        if name in self.scope.predefined:
            return Node(self.scope.predefined[name], place)
        raise _CannotResolve(f"{{{{{name}}}}} is no variable of mmengine")


def _known(node: Node) -> Any:
    """Return the plain value of a node. Raises _CannotResolve if it is not known."""
    if node.unresolved:
        raise _CannotResolve(f"{node.unresolved.text}: {node.unresolved.reason}")
    return node.plain


def _check_length(length: int) -> None:
    if length > MAX_LENGTH:
        raise _CannotResolve(f"more than {MAX_LENGTH} items")
