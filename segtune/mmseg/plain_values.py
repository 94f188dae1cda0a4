"""Arithmetic and text of plain values, with a limit on every result.

`10 ** 10 ** 10`, `[0] * 10 ** 9` and text that doubles on each line would fill the memory.
"""

from __future__ import annotations

import ast
import operator
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from segtune.mmseg.nodes import Node, Unresolved

MAX_EXPONENT = 64
MAX_DIGITS = 300
MAX_LENGTH = 10_000
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
}
OF_LISTS = ("bool", "min", "max", "sum")  # builtins that also take a list
FORMAT_SPEC = re.compile(r"[<>^]?0?\d{0,2}(\.\d{1,2})?[dfegs%]?")


class CannotResolve(Exception):
    """Raised inside an expression; becomes an Unresolved of the whole expression."""


def check_length(length: int) -> None:
    """Raise CannotResolve if a list or a text would be longer than MAX_LENGTH."""
    if length > MAX_LENGTH:
        raise CannotResolve(f"more than {MAX_LENGTH} items")


def checked(value: Any) -> Any:
    """Return a computed number or text. Raises CannotResolve if it is too large."""
    if isinstance(value, str | bytes):
        check_length(len(value))
    if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
        raise CannotResolve(f"a number of more than {MAX_DIGITS} digits")
    if isinstance(value, complex):
        raise CannotResolve("a complex number")
    return value


def binary(sign: ast.operator, a: Any, b: Any) -> Any:
    """Return `a sign b` of two numbers or texts. Raises CannotResolve, or what Python raises."""
    if isinstance(sign, ast.Pow) and abs(b) > MAX_EXPONENT:
        raise CannotResolve(f"an exponent above {MAX_EXPONENT}")
    for text, times in ((a, b), (b, a)):
        if isinstance(text, str | bytes) and isinstance(times, int):
            check_length(len(text) * times)
    if isinstance(a, str | bytes) and isinstance(sign, ast.Mod):
        raise CannotResolve("text with %")
    return checked(BINARY[type(sign)](a, b))


def formatted(text: str, values: Sequence[Any], named: Mapping[str, Any]) -> str:
    """Return `text.format(...)`; only {} and {name} are filled in."""
    if re.search(r"\{[^{}]*[.\[:!]", text):
        raise CannotResolve("only {} and {name} are filled in")
    longest = max((len(str(value)) for value in (*values, *named.values())), default=0)
    check_length(text.count("{") * longest)
    return checked(text.format(*values, **named))


def in_f_string(value: Any, spec: str) -> str:
    """Return a value of an f-string."""
    if not FORMAT_SPEC.fullmatch(spec):
        raise CannotResolve(f"the format {spec!r} in an f-string")
    return format(value, spec)


def joined(parts: Iterable[str]) -> str:
    """Return parts of text together. `parts` may be lazy: too many are not made."""
    text: list[str] = []
    length = 0
    for part in parts:
        length += len(part)
        check_length(length)
        text.append(part)
    return "".join(text)


def joined_path(parts: Sequence[Any]) -> str:
    """Return `os.path.join(*parts)`."""
    check_length(sum(len(part) for part in parts))
    return posixpath.join(*parts)


def cause(unresolved: Unresolved) -> str:
    """Return why an expression with this part is not known: the first cause stays."""
    text, reason = unresolved.text, unresolved.reason
    return reason if ": " in reason else f"{text}: {reason}"


def scalar(node: Node) -> Any:
    """Return a number, a text, a truth value or None. Raises CannotResolve for others."""
    if node.unresolved:
        raise CannotResolve(cause(node.unresolved))
    if node.is_container:
        raise CannotResolve("a list or a dict is used as a number or a text")
    return node.value


def truth(node: Node) -> bool:
    """Return whether `if` would take a value as true. Raises CannotResolve if it is not known."""
    return bool(node.value if node.is_container else scalar(node))


def flat(node: Node) -> Any:
    """Return a scalar, or a list of scalars. Raises CannotResolve for others."""
    if isinstance(node.value, list):
        return [scalar(item) for item in node.value]
    return scalar(node)
