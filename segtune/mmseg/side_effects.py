"""What statements that are not executed may set or change. Looks at the syntax only."""

from __future__ import annotations

import ast
from collections.abc import Container, Iterator

from segtune.mmseg.plain_values import PURE

COMPOUND = {
    ast.For: "a for loop",
    ast.While: "a while loop",
    ast.If: "an if",
    ast.Try: "a try",
    ast.With: "a with block",
    ast.Match: "a match",
}
# Functions that change none of their arguments.
HARMLESS = {
    *PURE,
    *("dict", "list", "tuple", "set", "frozenset", "range", "len", "sorted", "reversed", "zip"),
    *("enumerate", "isinstance", "print", "repr", "any", "all", "copy", "deepcopy"),
    *("copy.copy", "copy.deepcopy", "osp.join", "os.path.join"),
}
# Methods of dicts, lists and text that change nothing.
READING = {
    *("get", "keys", "values", "items", "copy", "index", "count", "format", "join", "split"),
    *("strip", "replace", "lower", "upper", "startswith", "endswith", "removeprefix"),
    "removesuffix",
}


def kind_of(statement: ast.stmt) -> str:
    """Return the kind of a statement, in words."""
    return COMPOUND.get(type(statement), "a statement")


def root_name(tree: ast.expr) -> str:
    """Return `a` of `a.b["c"]`; "" if there is no such name."""
    while isinstance(tree, ast.Subscript | ast.Attribute):
        tree = tree.value
    return tree.id if isinstance(tree, ast.Name) else ""


def bound_names(tree: ast.AST) -> set[str]:
    """Return the variables that a statement or a target may set or delete."""
    names: set[str] = set()
    for part in ast.walk(tree):
        match part:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                names.add(name)
            case ast.MatchAs(name=str() as name) | ast.MatchStar(name=str() as name):
                names.add(name)
            case ast.MatchMapping(rest=str() as name):
                names.add(name)
    return names


def changed_targets(statement: ast.stmt) -> Iterator[ast.expr]:
    """Yield every `a.b` and `a["b"]` that a statement sets or deletes, and `a` of `a += …`."""
    for tree in ast.walk(statement):
        if isinstance(tree, ast.Subscript | ast.Attribute):
            if isinstance(tree.ctx, ast.Store | ast.Del):
                yield tree
        elif isinstance(tree, ast.AugAssign) and isinstance(tree.target, ast.Name):
            yield tree.target


def global_names(definition: ast.AST) -> set[str]:
    """Return the variables of the file that a function declares as its own with `global`."""
    trees = [tree for tree in ast.walk(definition) if isinstance(tree, ast.Global)]
    return {name for tree in trees for name in tree.names}


def local_names(definition: ast.AST) -> set[str]:
    """Return the parameters and variables of a function or a class and of those inside."""
    parameters = {tree.arg for tree in ast.walk(definition) if isinstance(tree, ast.arg)}
    return (parameters | bound_names(definition)) - global_names(definition)


def alias_sources(statement: ast.stmt) -> Iterator[ast.expr]:
    """Yield the expressions with the values that a statement gives to variables."""
    for tree in ast.walk(statement):
        match tree:
            case ast.Assign(value=value) | ast.NamedExpr(value=value) | ast.For(iter=value):
                yield value
            case ast.withitem(context_expr=value) | ast.Match(subject=value):
                yield value


def walrus_names(tree: ast.AST) -> Iterator[str]:
    """Yield the variables that `:=` sets in a statement."""
    for part in ast.walk(tree):
        if isinstance(part, ast.NamedExpr):
            yield part.target.id


def changing_calls(tree: ast.AST, imported: Container[str]) -> Iterator[ast.Call]:
    """Yield the calls in a statement that may change a dict or a list.

    `imported` has the names of modules: `module.copy(a)` may do anything, `a.copy()` may not.
    """
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or _dotted(call.func) in HARMLESS:
            continue
        if method_name(call) not in READING or root_name(call.func) in imported:
            yield call


def method_name(call: ast.Call) -> str:
    """Return `m` of a call `a.m()`; a space for a call that is none of a method."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else " "


def _dotted(func: ast.expr) -> str:
    match func:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=ast.Name(id=owner), attr=name):
            return f"{owner}.{name}"
        case ast.Attribute(value=ast.Attribute(value=ast.Name(id=first), attr=second), attr=name):
            return f"{first}.{second}.{name}"
    return ""


def can_change(call: ast.Call) -> Iterator[ast.expr]:
    """Yield the expressions with the dicts and lists that a call may change."""
    yield from call.args
    yield from (keyword.value for keyword in call.keywords)
    if isinstance(call.func, ast.Attribute):
        yield call.func.value


def loop_items(tree: ast.AST) -> Iterator[ast.expr]:
    """Yield what the loops and comprehensions in a statement go over."""
    for part in ast.walk(tree):
        if isinstance(part, ast.For | ast.comprehension):
            yield part.iter
