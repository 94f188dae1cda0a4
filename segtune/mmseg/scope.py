"""The names of one config file, and values of it that are not known."""

from __future__ import annotations

import ast
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from itertools import islice

from segtune.mmseg.nodes import Budget, Node, Place, Unresolved

# To write a larger expression as text takes long, and too much of the stack if it is nested.
MAX_SHOWN_PARTS = 100
NOT_EXECUTED = "segtune reads the file and does not run its code"


@dataclass
class Scope:
    """The names of one file: its variables, its base files, mmengine's predefined variables."""

    file: str
    budget: Budget  # of all files of an import
    names: MutableMapping[str, Node] = field(default_factory=dict)
    base: Node | None = None
    predefined: Mapping[str, str] = field(default_factory=dict)
    followed: set[ast.Call] = field(default_factory=set)  # calls of `pop` that were carried out

    def place(self, tree: ast.AST) -> Place:
        """Return the file and line of a part of the file."""
        return Place(self.file, getattr(tree, "lineno", 1))


def unresolved(tree: ast.AST, scope: Scope, reason: str, name: str | None = None) -> Node:
    """Return the Unresolved of an expression."""
    return Node(Unresolved(as_text(tree), reason, name), scope.place(tree))


def as_text(tree: ast.AST) -> str:
    """Return an expression for a message, shortened."""
    if len(list(islice(ast.walk(tree), MAX_SHOWN_PARTS))) == MAX_SHOWN_PARTS:
        return "an expression of many parts"
    text = ast.unparse(tree)
    return text if len(text) <= 60 else f"{text[:57]}..."
