"""The statements of a config file, followed without running them: assignments and changes of dicts.

What a loop, a condition or a function sets is Unresolved.
"""

from __future__ import annotations

import ast
from collections.abc import Callable

from segtune.mmseg.expressions import NOT_EXECUTED, Scope, evaluate, unresolved
from segtune.mmseg.merging import merged
from segtune.mmseg.nodes import Node

COMPOUND = {
    ast.For: "a for loop",
    ast.While: "a while loop",
    ast.If: "an if",
    ast.Try: "a try",
    ast.With: "a with block",
    ast.Match: "a match",
}


class Statements:
    """Follows the statements of one file."""

    def __init__(self, scope: Scope, read_base: Callable[[ast.ImportFrom, Scope], None]) -> None:
        """`read_base` adds the variables that an import inside `with read_base():` brings."""
        self.scope = scope
        self.read_base = read_base
        self.imported: set[str] = set()  # names of modules, classes and functions
        self.not_executed: list[ast.stmt] = []

    def follow(self, body: list[ast.stmt]) -> None:
        """Follow statements in their order."""
        for statement in body:
            self._follow(statement)

    def _follow(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Assign(targets=targets, value=value):
                node = evaluate(value, self.scope)
                for target in targets:
                    self._assign(target, node)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self._assign(target, evaluate(value, self.scope))
            case ast.AugAssign(target=target, op=sign, value=value):
                read = ast.parse(ast.unparse(target), mode="eval").body
                total = ast.BinOp(read, sign, value)
                ast.copy_location(total, statement)
                self._assign(target, evaluate(ast.fix_missing_locations(total), self.scope))
            case ast.Import() | ast.ImportFrom():
                self._import(statement)
            case ast.With(items=[ast.withitem(context_expr=ast.Call(func=ast.Name("read_base")))]):
                self._read_bases(statement)
            case ast.Delete(targets=targets):
                for target in targets:
                    self._delete(target)
            case ast.Expr(value=ast.Constant()) | ast.Pass() | ast.AnnAssign(value=None):
                pass
            case ast.Expr(value=ast.Call() as call):
                self._call(call, statement)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                self.imported.add(name)
                reason = f"defined in the file; {NOT_EXECUTED}"
                self.scope.names[name] = unresolved(ast.Name(name), self.scope, reason, name)
            case _:
                self._poison(statement)

    def _assign(self, target: ast.expr, node: Node) -> None:
        match target:
            case ast.Name(id=name):
                self.scope.names[name] = node
                self.imported.discard(name)
            case ast.Tuple(elts=targets) | ast.List(elts=targets):
                parts = node.value if isinstance(node.value, list) else []
                for index, part in enumerate(targets):
                    known = len(parts) == len(targets)
                    self._assign(part, parts[index] if known else self._unknown(part))
            case ast.Subscript(value=owner) | ast.Attribute(value=owner):
                container = evaluate(owner, self.scope)
                key = _key(target, self.scope)
                if isinstance(container.value, dict) and key is not None:
                    container.value[str(key)] = node
                elif (
                    isinstance(container.value, list)
                    and isinstance(key, int)
                    and -len(container.value) <= key < len(container.value)
                ):
                    container.value[key] = node
                else:
                    self._forget(target)

    def _unknown(self, tree: ast.expr) -> Node:
        return unresolved(tree, self.scope, NOT_EXECUTED)

    def _delete(self, target: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self.scope.names.pop(target.id, None)
        elif isinstance(target, ast.Subscript | ast.Attribute):
            container = evaluate(target.value, self.scope)
            key = _key(target, self.scope)
            if isinstance(container.value, dict) and str(key) in container.value:
                del container.value[str(key)]
            elif isinstance(container.value, list) and isinstance(key, int):
                container.value.pop(key)
            else:
                self._forget(target)

    def _import(self, statement: ast.Import | ast.ImportFrom) -> None:
        for alias in statement.names:
            name = alias.asname or alias.name.split(".")[0]
            reason = f"imported; {NOT_EXECUTED}"
            known = alias.name if isinstance(statement, ast.ImportFrom) else None
            self.scope.names[name] = unresolved(
                ast.copy_location(ast.Name(name), statement), self.scope, reason, known
            )
            self.imported.add(name)

    def _read_bases(self, statement: ast.With) -> None:
        for inner in statement.body:
            if isinstance(inner, ast.ImportFrom):
                self.read_base(inner, self.scope)
            else:
                self._poison(inner)

    def _call(self, call: ast.Call, statement: ast.stmt) -> None:
        """Follow a method that changes a dict or a list; no other call is executed."""
        if not isinstance(call.func, ast.Attribute):
            self.not_executed.append(statement)
            return
        owner = evaluate(call.func.value, self.scope)
        values = [evaluate(argument, self.scope) for argument in call.args]
        named = {str(k.arg): evaluate(k.value, self.scope) for k in call.keywords if k.arg}
        done = all(k.arg for k in call.keywords) and (
            _change_dict(owner, call.func.attr, values, named)
            or (not named and _change_list(owner, call.func.attr, values))
        )
        if not done:
            self.not_executed.append(statement)
            if not owner.unresolved:
                self._forget(call.func)

    def _forget(self, target: ast.expr) -> None:
        """Make the variable unknown that `target` changes in a way that is not followed."""
        root: ast.expr = target
        while isinstance(root, ast.Subscript | ast.Attribute):
            root = root.value
        if isinstance(root, ast.Name) and root.id in self.scope.names:
            reason = f"changed on this line in a way that is not followed; {NOT_EXECUTED}"
            self.scope.names[root.id] = unresolved(target, self.scope, reason, None)

    def _poison(self, statement: ast.stmt) -> None:
        """Make every variable unknown that a statement might set."""
        self.not_executed.append(statement)
        kind = COMPOUND.get(type(statement), "a statement")
        reason = f"set in {kind}; {NOT_EXECUTED}"
        for tree in ast.walk(statement):
            if isinstance(tree, ast.Name) and isinstance(tree.ctx, ast.Store):
                self.scope.names[tree.id] = unresolved(tree, self.scope, reason)
            elif isinstance(tree, ast.Subscript | ast.Attribute):
                is_call = isinstance(tree, ast.Attribute) and isinstance(tree.ctx, ast.Load)
                if isinstance(tree.ctx, ast.Store) or is_call:
                    self._forget(tree)


def _key(target: ast.expr, scope: Scope) -> str | int | None:
    """Return the key of `a[key]` or `a.key`; None if it is not known."""
    if isinstance(target, ast.Attribute):
        return target.attr
    assert isinstance(target, ast.Subscript)
    key = evaluate(target.slice, scope).value
    return key if isinstance(key, str | int) else None


def _change_dict(owner: Node, method: str, values: list[Node], named: dict[str, Node]) -> bool:
    """Apply `update`, `merge`, `pop` or `setdefault` to a dict; return whether it was possible."""
    if not isinstance(owner.value, dict):
        return False
    if method in ("update", "merge") and all(isinstance(node.value, dict) for node in values):
        for node in [*values, Node(named, owner.place)]:
            change = merged(owner, node).value if method == "merge" else node.value
            owner.value.update(change)
        return True
    if method == "pop" and values and isinstance(values[0].value, str):
        owner.value.pop(values[0].value, None)
        return True
    if method == "setdefault" and len(values) == 2 and isinstance(values[0].value, str):
        owner.value.setdefault(values[0].value, values[1])
        return True
    return False


def _change_list(owner: Node, method: str, values: list[Node]) -> bool:
    """Apply `append`, `extend`, `insert` or `pop` to a list; return whether it was possible."""
    items = owner.value
    if not isinstance(items, list):
        return False
    match method, values:
        case "append", [item]:
            items.append(item)
        case "extend", [Node(value=list() as more)]:
            items.extend(more)
        case "insert", [Node(value=int() as index), item]:
            items.insert(index, item)
        case "pop", [] if items:
            items.pop()
        case "pop", [Node(value=int() as index)] if -len(items) <= index < len(items):
            items.pop(index)
        case _:
            return False
    return True
