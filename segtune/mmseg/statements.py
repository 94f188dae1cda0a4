"""The statements of a config file, followed without running them: assignments and changes of dicts.

What a loop, a condition or a function sets or may change is Unresolved.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Container

from segtune.mmseg.changes import change_dict, change_list, put, spoil
from segtune.mmseg.expressions import evaluate
from segtune.mmseg.nodes import Node, Unresolved
from segtune.mmseg.plain_values import CannotResolve
from segtune.mmseg.scope import NOT_EXECUTED, Scope, as_text, unresolved
from segtune.mmseg.side_effects import (
    alias_sources,
    bound_names,
    can_change,
    changed_targets,
    changing_calls,
    global_names,
    kind_of,
    local_names,
    loop_items,
    method_name,
    root_name,
    walrus_names,
)


class Statements:
    """Follows the statements of one file."""

    def __init__(self, scope: Scope, read_base: Callable[[ast.ImportFrom, Scope], None]) -> None:
        """`read_base` adds the variables that an import inside `with read_base():` brings."""
        self.scope = scope
        self.read_base = read_base
        self.imported: set[str] = set()  # names of modules, classes and functions
        self.not_executed: list[ast.stmt] = []
        self.functions: dict[str, ast.FunctionDef] = {}  # of this file
        self.entered: set[ast.stmt] = set()  # functions that the present statement has called

    def follow(self, body: list[ast.stmt]) -> None:
        """Follow statements in their order."""
        for statement in body:
            self.entered.clear()
            self._follow(statement)
            if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                for name in walrus_names(statement):
                    self._set_unknown(name, statement, "set with :=")

    def _follow(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Assign(targets=targets, value=value):
                self._assign_all(targets, self._value(value), statement)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self._assign_all([target], self._value(value), statement)
            case ast.AugAssign():
                self._assign_all([statement.target], self._augmented(statement), statement)
            case ast.Import() | ast.ImportFrom():
                self._import(statement)
            case ast.With(items=[ast.withitem(context_expr=ast.Call(func=ast.Name("read_base")))]):
                self._read_bases(statement)
            case ast.Delete(targets=targets):
                for target in targets:
                    self._delete(target, statement)
            case ast.Expr(value=ast.Call(func=ast.Attribute()) as call):
                self._call_method(call, statement)
            case ast.Expr() | ast.Assert() | ast.Pass() | ast.AnnAssign(value=None):
                if any(changing_calls(statement, self.imported)):
                    self._poison(statement)
            case ast.FunctionDef() | ast.ClassDef():
                self._define(statement)
            case _:
                self._poison(statement)

    def _assign_all(self, targets: list[ast.expr], node: Node, statement: ast.stmt) -> None:
        for target in targets:
            self._assign(target, node, statement)

    def _value(self, tree: ast.expr) -> Node:
        """Return the value of an expression. What its calls may change is not known any more."""
        # Before: in `[changed(p), p["x"]]`, the second item may be changed already.
        self._spoil_what_calls_change(tree, but="pop")
        node = evaluate(tree, self.scope)
        self._spoil_what_calls_change(tree)  # by every `pop` that was not followed
        return node

    def _augmented(self, statement: ast.AugAssign) -> Node:
        """Return the value of `target op= value`; a list is changed in place, as in Python."""
        read = copy.copy(statement.target)
        read.ctx = ast.Load()
        before = evaluate(read, self.scope)
        total = ast.copy_location(ast.BinOp(read, statement.op, statement.value), statement)
        after = self._value(total)
        if isinstance(before.value, list) and isinstance(after.value, list):
            before.value = after.value
            return before
        if before.is_container:
            spoil(before, self._unknown(statement).value, self.scope.base)
        elif before.unresolved:
            self.not_executed.append(statement)  # it may be an alias of any list
        return after

    def _assign(self, target: ast.expr, node: Node, statement: ast.stmt) -> None:
        match target:
            case ast.Name(id=name):
                self.scope.names[name] = node
                self.imported.discard(name)
            case ast.Tuple(elts=targets) | ast.List(elts=targets):
                parts = node.value if isinstance(node.value, list) else []
                known = len(parts) == len(targets)
                known &= not any(isinstance(part, ast.Starred) for part in targets)
                for index, part in enumerate(targets):
                    inner = parts[index] if known else self._unknown(part)
                    self._assign(part, inner, statement)
            case ast.Starred(value=inner):
                self._assign(inner, self._unknown(inner), statement)
            case ast.Subscript(value=owner) | ast.Attribute(value=owner):
                container = evaluate(owner, self.scope)
                key = self._key(target)
                if isinstance(container.value, dict) and key is not None:
                    put(container, str(key), node, self.scope.budget)
                elif (
                    isinstance(container.value, list)
                    and isinstance(key, int)
                    and -len(container.value) <= key < len(container.value)
                ):
                    container.value[key] = node
                else:
                    self._forget(target, statement)

    def _delete(self, target: ast.expr, statement: ast.stmt) -> None:
        if isinstance(target, ast.Name):
            self.scope.names.pop(target.id, None)
        elif isinstance(target, ast.Tuple | ast.List):
            for part in target.elts:
                self._delete(part, statement)
        elif isinstance(target, ast.Subscript | ast.Attribute):
            container = evaluate(target.value, self.scope)
            key = self._key(target)
            if isinstance(container.value, dict) and str(key) in container.value:
                del container.value[str(key)]
            elif (
                isinstance(container.value, list)
                and isinstance(key, int)
                and -len(container.value) <= key < len(container.value)
            ):
                del container.value[key]
            else:
                self._forget(target, statement)

    def _key(self, target: ast.Subscript | ast.Attribute) -> str | int | None:
        """Return the key of `a[key]` or `a.key`; None if it is not known."""
        if isinstance(target, ast.Attribute):
            return target.attr
        key = evaluate(target.slice, self.scope).value
        return key if isinstance(key, str | int) else None

    def _import(self, statement: ast.Import | ast.ImportFrom) -> None:
        for alias in statement.names:
            if alias.name == "*":  # may set any name
                self.not_executed.append(statement)
                continue
            name = alias.asname or alias.name.split(".")[0]
            reason = f"imported; {NOT_EXECUTED}"
            tree = ast.copy_location(ast.Name(name), statement)
            known = alias.name.rpartition(".")[2] if alias.asname else name
            self.scope.names[name] = unresolved(tree, self.scope, reason, known)
            self.imported.add(name)

    def _read_bases(self, statement: ast.With) -> None:
        for inner in statement.body:
            if isinstance(inner, ast.ImportFrom):
                self.read_base(inner, self.scope)
            elif not isinstance(inner, ast.Pass):
                self._poison(inner)

    def _call_method(self, call: ast.Call, statement: ast.stmt) -> None:
        """Follow a method that changes a dict or a list; no other call is executed."""
        assert isinstance(call.func, ast.Attribute)
        owner = evaluate(call.func.value, self.scope)
        known = owner.is_container and all(keyword.arg for keyword in call.keywords)
        if known:
            values = [self._value(argument) for argument in call.args]
            named = {str(k.arg): self._value(k.value) for k in call.keywords}
            if self._changed(owner, call.func.attr, values, named):
                return
        if any(changing_calls(statement, self.imported)):
            self._poison(statement)

    def _changed(
        self, owner: Node, method: str, values: list[Node], named: dict[str, Node]
    ) -> bool:
        """Apply a method to a dict or a list; return whether this was possible."""
        budget = self.scope.budget
        try:
            return change_dict(owner, method, values, named, budget) or (
                not named and change_list(owner, method, values, budget)
            )
        except CannotResolve:  # the list would be too long
            return False

    def _unknown(self, tree: ast.AST, how: str = "") -> Node:
        reason = f"{how}; {NOT_EXECUTED}" if how else NOT_EXECUTED
        return unresolved(tree, self.scope, reason)

    def _set_unknown(self, name: str, statement: ast.AST, how: str) -> None:
        tree = ast.copy_location(ast.Name(name), statement)
        self.scope.names[name] = self._unknown(tree, how)
        self.imported.discard(name)

    def _forget(self, target: ast.Subscript | ast.Attribute, statement: ast.stmt) -> None:
        """Make unknown what an assignment to `target` changes in a way that is not followed."""
        if root_name(target) in self.imported:
            return  # as in `os.environ["A"] = "b"`
        how = "changed on this line in a way that is not followed"
        if not self._spoil_parts(target.value, self._unknown(target, how).value):
            self.not_executed.append(statement)  # it may be an alias of anything

    def _spoil_what_calls_change(self, tree: ast.AST, but: str = "") -> None:
        """Make the dicts and lists unknown that a statement passes to functions and methods.

        Methods of the name `but`, and those that were followed, are left out.
        """
        calls = [
            call
            for call in changing_calls(tree, self.imported)
            if call not in self.scope.followed and method_name(call) != but
        ]
        for items in loop_items(tree) if calls else ():
            self._spoil_items(items, self._unknown(items, "may be changed by a call").value)
        for call in calls:
            unknown = self._unknown(call, f"may be changed by {as_text(call.func)}").value
            for part in can_change(call):
                self._spoil_parts(part, unknown)
            self._enter_called(call)

    def _define(self, statement: ast.FunctionDef | ast.ClassDef) -> None:
        """Follow the definition of a function or a class, which no setting can need."""
        self._set_unknown(statement.name, statement, "defined in the file")
        self.imported.add(statement.name)
        for decorator in statement.decorator_list:
            self._spoil_what_calls_change(decorator)
        if isinstance(statement, ast.FunctionDef):
            self.functions[statement.name] = statement
            self._spoil_what_calls_change(statement.args)  # the defaults
        else:
            self._enter(statement)  # Python runs the body of a class

    def _enter(self, definition: ast.FunctionDef | ast.ClassDef) -> None:
        """Make the variables of the file unknown that a function or a class may change."""
        if definition in self.entered:
            return
        self.entered.add(definition)
        self.scope.budget.spend(self.scope.place(definition), sum(1 for _ in ast.walk(definition)))
        how = f"may be changed by {definition.name}"
        name = ast.copy_location(ast.Name(definition.name), definition)
        inner = local_names(definition)
        targets = list(changed_targets(definition))
        calls = list(changing_calls(definition, self.imported))
        parts = [part for call in calls for part in can_change(call)]
        if any(root_name(part) in inner for part in (*targets, *parts)):
            parts += alias_sources(definition)
        for target in targets:
            if root_name(target) not in inner:
                self._poison_target(target, how)
        for part in parts:
            self._spoil_parts(part, self._unknown(name, how).value, inner)
        for call in calls:
            self._enter_called(call)
        for variable in global_names(definition):
            self._set_unknown(variable, definition, f"set by {definition.name}")

    def _enter_called(self, call: ast.Call) -> None:
        if isinstance(call.func, ast.Name) and call.func.id in self.functions:
            self._enter(self.functions[call.func.id])

    def _poison(self, statement: ast.stmt) -> None:
        """Make everything unknown that a statement might set or change."""
        self._import_inside(statement)
        names = bound_names(statement)
        targets = list(changed_targets(statement))
        calls = list(changing_calls(statement, self.imported))
        if not (names or targets or calls):
            return  # such as `try: import x`
        self.not_executed.append(statement)
        how = f"set in {kind_of(statement)}"
        for target in targets:
            self._poison_target(target, how)
        self._spoil_what_calls_change(statement)
        changed = f"changed in {kind_of(statement)}"
        for items in loop_items(statement):
            self._spoil_items(items, self._unknown(items, changed).value)
        touched = [*targets, *(part for call in calls for part in can_change(call))]
        if any(root_name(part) in names for part in touched):
            # What the statement changes may be an alias that it has made.
            for source in alias_sources(statement):
                self._spoil_parts(source, self._unknown(source, changed).value)
        for name in names:
            self._set_unknown(name, statement, how)

    def _import_inside(self, statement: ast.stmt) -> None:
        """Follow the imports and definitions inside a statement, such as `try`."""
        for tree in ast.walk(statement):
            if isinstance(tree, ast.Import | ast.ImportFrom):
                self._import(tree)
            elif isinstance(tree, ast.FunctionDef | ast.ClassDef):
                self._define(tree)

    def _poison_target(self, target: ast.expr, how: str) -> None:
        """Make one place unknown, in `a.b = …`, `del a["b"]` or `a += …`, that may be set."""
        unknown = self._unknown(target, how)
        if isinstance(target, ast.Name):
            self._spoil_parts(target, unknown.value)
        elif isinstance(target, ast.Subscript | ast.Attribute):
            container = evaluate(target.value, self.scope)
            key = self._key(target)
            if isinstance(container.value, dict) and isinstance(key, str):
                container.value[key] = unknown
            else:
                self._spoil_parts(target.value, unknown.value)

    def _spoil_parts(self, tree: ast.AST, unknown: Unresolved, inner: Container[str] = ()) -> bool:
        """Make every dict or list unknown that an expression names; return whether there is one.

        The variables `inner` are those of a function.
        """
        spoiled = False
        stack = [tree]
        while stack:
            part = stack.pop()
            is_named = isinstance(part, ast.Name | ast.Attribute | ast.Subscript)
            if is_named and root_name(part) not in inner:
                node = evaluate(part, self.scope)
                if node.is_container:
                    spoil(node, unknown, self.scope.base)
                    spoiled = True
                    continue
            stack += ast.iter_child_nodes(part)
        return spoiled

    def _spoil_items(self, tree: ast.expr, unknown: Unresolved) -> None:
        """Make the lists of dicts or lists unknown that a loop goes over."""
        for part in ast.walk(tree):
            if isinstance(part, ast.Name | ast.Attribute | ast.Subscript):
                items = evaluate(part, self.scope).value
                inner = items.values() if isinstance(items, dict) else items
                if isinstance(items, dict | list) and any(node.is_container for node in inner):
                    self._spoil_parts(part, unknown)
