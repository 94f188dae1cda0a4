"""What a field accepts, in words such as `number > 0` or `adamw | sgd`.

Knows no particular setting.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

TYPE_NAMES = {
    float: "number",
    int: "whole number",
    str: "text",
    bool: "true | false",
    types.NoneType: "null",
}
BOUND_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "min_length": "length >="}


def allowed_values(field: FieldInfo) -> str:
    """Return in words what a field accepts: its choices, or its type and range."""
    return _type_in_words(field.annotation, field.metadata)


def _type_in_words(annotation: Any, constraints: Sequence[Any] = ()) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_in_words(arguments[0], list(_constraints(arguments[1:])))
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " | ".join(_type_in_words(branch, constraints) for branch in arguments)
    if annotation is types.NoneType:
        return TYPE_NAMES[annotation]  # the range of an optional number is not about null
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "settings"
    separator = ", " if origin is tuple else " "
    bounds = _bounds(constraints)
    return _plain_type(annotation, origin, arguments) + (separator + bounds if bounds else "")


def _plain_type(annotation: Any, origin: Any, arguments: Sequence[Any]) -> str:
    if origin is dict and arguments == (int, int):
        return "{value: label}"
    if origin is dict and get_origin(arguments[1]) is tuple:
        return "{name: [r, g, b]}"
    if origin is dict:
        return "{name: number}" if arguments == (str, float) else "{name: value}"
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"list of {_type_in_words(arguments[0])}"
    if origin is tuple:
        # All tuples of fixed length are pairs of one type.
        return f"list of {len(arguments)}, each {_type_in_words(arguments[0])}"
    return TYPE_NAMES.get(annotation) or getattr(annotation, "__name__", str(annotation))


def _constraints(metadata: Sequence[Any]) -> Iterator[Any]:
    """Yield the constraints in the metadata of an `Annotated` type, also those inside a `Field`."""
    for item in metadata:
        if isinstance(item, FieldInfo):
            yield from item.metadata
        else:
            yield item


def _bounds(constraints: Sequence[Any]) -> str:
    """Return the constraints as text, for example `>= 0, < 1`."""
    return ", ".join(
        f"{sign} {getattr(constraint, key)}"
        for constraint in constraints
        for key, sign in BOUND_SIGNS.items()
        if getattr(constraint, key, None) is not None
    )
