"""Read a search space from YAML; every mistake is listed with its line and a way out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from segtune.config.allowed import allowed_values
from segtune.config.schema import ExperimentConfig
from segtune.config.settings import nearest_setting, section_of
from segtune.config.yaml_io import Source
from segtune.errors import ConfigError, nearest
from segtune.tuning.prior import CONFIDENCES, DEFAULT_CONFIDENCE, Prior
from segtune.tuning.space import KINDS, Dimension, Space

# What may stand beside the kind of a dimension and its values.
OPTIONS = ("when", "prior", "confidence")

# Words of other tools, and the words to write instead.
FOREIGN_WORDS = {
    "step": "a range has no steps; write a choice of the values",
    "q": "a range has no steps; write a choice of the values",
    "log": "for a logarithmic scale, write loguniform",
    "values": "write choice: [first, second]",
    "categorical": "write choice: [first, second]",
    "grid_search": "write choice: [first, second]",
    "min": "write uniform: [low, high]",
    "max": "write uniform: [low, high]",
    "low": "write uniform: [low, high]",
    "high": "write uniform: [low, high]",
    "randint": "write int: [low, high]; both ends are drawn",
    "quniform": "write int: [low, high], or a choice of the values",
    "log_uniform": "write loguniform: [low, high]",
    "log_uniform_values": "write loguniform: [low, high]",
    "default": "write prior: VALUE, the value that you believe to be good",
    "prior_confidence": "write confidence: low, medium or high",
    "default_confidence": "write confidence: low, medium or high",
}


def read_space(tree: Any, config: ExperimentConfig, source: Source, prefix: str = "") -> Space:
    """Read a space from {dotted name: {kind: values, when: …, prior: …, confidence: …}}.

    `prefix` is where the space stands in its file, for example `space.`. Raise ConfigError that
    lists every mistake: unknown names, wrong ranges, values that the config refuses.
    """
    if not isinstance(tree, dict) or not tree:
        place = source.place(prefix.rstrip("."))
        raise ConfigError(
            [
                f"{place}: expected settings that vary, "
                "for example optim.lr: {loguniform: [1e-5, 1e-3]}"
            ]
        )
    reader = _Reader(config, source, prefix, tree)
    read = [reader.read(str(name), body) for name, body in tree.items()]
    if reader.problems:
        raise ConfigError(reader.problems)
    dimensions = tuple(dimension for dimension in read if dimension)
    parents = [name for dimension in dimensions for name in dimension.when]
    names = dict.fromkeys([*parents, *(d.name for d in dimensions)])
    return Space(dimensions, {name: config.get(name) for name in names})


# Where a range is tried between its ends, as a share of it: never a whole number if both ends are.
INNER_SHARE = 0.5**0.5


class _Reader:
    """Reads the dimensions of a space one by one and collects all mistakes in `problems`."""

    def __init__(
        self, config: ExperimentConfig, source: Source, prefix: str, tree: Mapping[str, Any]
    ) -> None:
        self.config = config
        self.source = source
        self.prefix = prefix
        self.order = tuple(tree)
        self.last_values = _last_values(tree)
        self.conditions = {name: _conditions(body) for name, body in tree.items()}
        self.problems: list[str] = []
        fields = ExperimentConfig.names().items()
        self.settings = [name for name, info in fields if not section_of(info.annotation)]

    def read(self, name: str, body: Any) -> Dimension | None:
        """Return a dimension; None if it has a mistake."""
        if problem := self._body_problem(name, body):
            return self._report(name, problem)
        when = body.get("when", {})
        kind = next(key for key in body if key not in OPTIONS)
        problems = [
            _values_problem(kind, body[kind]) or _kind_problem(name, kind, body[kind]),
            self._when_problem(name, when),
            _confidence_problem(body),
        ]
        if any(problems):
            return self._report(name, *problems)
        values = body[kind] if kind in ("choice", "int") else map(float, body[kind])
        dimension = Dimension(name, kind, tuple(values), when)
        if problem := _prior_problem(dimension, body):
            return self._report(name, problem)
        dimension = replace(dimension, prior=_prior(dimension, body))
        problems = [self._value_problem(dimension, value) for value in dimension.values]
        self._report(name, *(problems if any(problems) else [self._inner_problem(dimension)]))
        return dimension

    def _inner_problem(self, dimension: Dimension) -> str:
        """Return why the config refuses a value between the ends of a range of fractions."""
        if dimension.kind in ("choice", "int"):
            return ""
        low, high = dimension.values
        problem = self._value_problem(dimension, low + (high - low) * INNER_SHARE)
        if problem and float(low).is_integer() and float(high).is_integer():
            return f"{problem}; draw whole numbers: int: [{low:.0f}, {high:.0f}]"
        return problem

    def _report(self, name: str, *problems: str) -> None:
        place = self.source.place(self.prefix + name)
        self.problems += [f"{place}: {problem}" for problem in problems if problem]

    def _body_problem(self, name: str, body: Any) -> str:
        if name not in self.settings:
            return self._name_problem(name)
        if not isinstance(body, dict):
            is_range = isinstance(body, list) and len(body) == 2
            example = f"{{uniform: {body}}}" if is_range else "{uniform: [low, high]}"
            return (
                f"expected one of {', '.join(KINDS)} with its values, got {body!r}; "
                f"for example {name}: {example}"
            )
        kinds = [key for key in body if key not in OPTIONS]
        if len(kinds) == 1 and kinds[0] in KINDS:
            return ""
        if not kinds and "prior" in body:
            prior = body["prior"]
            return f"a prior needs a range that it lies in; add one, {_example_around(prior)}"
        unknown = next((str(kind) for kind in kinds if kind not in KINDS), "")
        foreign = FOREIGN_WORDS.get(unknown)
        words = (*KINDS, *OPTIONS)
        hint = f"; {foreign}" if foreign else nearest(unknown, words) if unknown else ""
        return f"expected exactly one of {', '.join(KINDS)}, got {kinds}{hint}"

    def _name_problem(self, name: str) -> str:
        """Return what is wrong with a name that is not a setting."""
        for known in self.settings:
            if known.startswith(f"{name}."):
                return f"is a section; a space has dotted names, for example {known}"
        return f"no such setting{nearest_setting(name, self.settings)}"

    def _when_problem(self, name: str, when: Any) -> str:
        if not isinstance(when, dict):
            return f"when takes {{name: value}}, got {when!r}"
        earlier = self.order[: self.order.index(name)]
        for parent, value in when.items():
            if parent not in self.settings:
                return f"when: {parent}: {self._name_problem(str(parent))}"
            if parent == name:
                return "when: a setting cannot depend on itself; remove the condition"
            if parent in self.order and parent not in earlier:
                return f"when: {parent} {self._order_problem(name, parent)}"
            if problem := self._refused({parent: value}):
                single = "; a condition takes a single value" if isinstance(value, list) else ""
                return f"when: {problem}{single}"
        return ""

    def _order_problem(self, name: str, parent: str) -> str:
        if name in self.conditions[parent]:
            return "depends on this setting in turn; remove one of the two conditions"
        return "must stand above this setting in the space"

    def _value_problem(self, dimension: Dimension, value: Any) -> str:
        """Return why the config refuses a choice or an end of a range; empty if it does not.

        The config may refuse a value only because of others: all loss weights 0, for example. The
        value is possible if it goes together with the last value of every other dimension.
        """
        changes = {**dimension.when, dimension.name: value}
        problem = self._refused(changes)
        if problem and self._refused({**self.last_values, **changes}):
            return f"value {value!r} is not possible: {problem}"
        return ""

    def _refused(self, changes: Mapping[str, Any]) -> str:
        try:
            self.config.override(changes, Source(""))
        except ConfigError as error:
            return "; ".join(error.problems)
        return ""


def _values_problem(kind: str, values: Any) -> str:
    """Return what is wrong with the values of a dimension; empty if nothing is."""
    if kind == "choice":
        if not isinstance(values, list) or not values:
            return f"choice takes a list of one or more values, got {values!r}"
        if len({repr(value) for value in values}) != len(values):
            return f"choice: a value is given twice in {values!r}"
        return ""
    if not isinstance(values, list) or len(values) != 2:
        return f"{kind} takes [low, high], got {values!r}"
    if not all(_is_number(kind, value) for value in values):
        whole = "whole " if kind == "int" else ""
        hint = "; write them without a decimal point" if all(map(_is_whole, values)) else ""
        return f"{kind} takes two finite {whole}numbers, got {values!r}{hint}"
    low, high = values
    if low == high:
        return f"{kind}: low must be less than high, got {values!r}; to fix it: choice: [{low}]"
    if low > high:
        return f"{kind}: low must be less than high, got {values!r}; write [{high}, {low}]"
    if kind == "loguniform" and low <= 0:
        return f"loguniform: low must be above 0, got {values!r}; write uniform, or a small low"
    return ""


def _kind_problem(name: str, kind: str, values: Any) -> str:
    """Return why a setting cannot have a range of this kind; empty if it can."""
    allowed = allowed_values(ExperimentConfig.names()[name])
    if kind == "choice":
        return ""
    if "number" not in allowed or "list of" in allowed:
        return f"takes {allowed}, which has no range; write choice with some of its values"
    if kind != "int" and "whole number" in allowed:
        return f"takes {allowed}, and {kind} draws fractions; write int: {values!r}"
    return ""


def _confidence_problem(body: Mapping[str, Any]) -> str:
    """Return what is wrong with the confidence of a dimension; empty if nothing is."""
    if "confidence" not in body:
        return ""
    allowed = ", ".join(CONFIDENCES)
    if "prior" not in body:
        return "confidence: there is no prior; add prior: VALUE, or remove confidence"
    confidence = body["confidence"]
    if confidence in CONFIDENCES:
        return ""
    return (
        f"confidence: allowed is one of {allowed}, got {confidence!r}"
        f"{nearest(str(confidence), CONFIDENCES)}"
    )


def _prior_problem(dimension: Dimension, body: Mapping[str, Any]) -> str:
    """Return why the prior of a dimension is none of its values; empty if it is."""
    if "prior" not in body or dimension.contains(body["prior"]):
        return ""
    prior = body["prior"]
    if dimension.kind == "choice":
        options = [str(value) for value in dimension.values]
        return (
            f"prior: {prior!r} is none of the choices {list(dimension.values)}"
            f"{nearest(str(prior), options)}; take one of them, or add it to the choices"
        )
    if not _is_number(dimension.kind, prior):
        whole = "whole " if dimension.kind == "int" else ""
        return f"prior: allowed is one {whole}number of {dimension}, got {prior!r}"
    low, high = dimension.values
    end = low if prior < low else high
    return (
        f"prior: {prior!r} is outside {dimension}; the nearest value is {end!r}: take a value of "
        "the range, or widen it"
    )


def _prior(dimension: Dimension, body: Mapping[str, Any]) -> Prior | None:
    if "prior" not in body:
        return None
    types = {"choice": lambda value: value, "int": int}
    value = types.get(dimension.kind, float)(body["prior"])
    return Prior(value, body.get("confidence", DEFAULT_CONFIDENCE))


def _example_around(prior: Any) -> str:
    """Return an example of a range with this prior."""
    if _is_number("uniform", prior) and prior > 0:
        return f"for example loguniform: [{prior / 10:g}, {prior * 10:g}]"
    return "for example uniform: [low, high] or choice: [first, second]"


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, float)) and float(value).is_integer()


def _is_number(kind: str, value: Any) -> bool:
    types = (int,) if kind == "int" else (int, float)
    return isinstance(value, types) and not isinstance(value, bool) and math.isfinite(value)


def _conditions(body: Any) -> tuple[str, ...]:
    """Return the names in the `when` of a dimension that may have mistakes."""
    when = body.get("when") if isinstance(body, dict) else None
    return tuple(when) if isinstance(when, dict) else ()


def _last_values(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the upper end or the last choice of every dimension that has one."""
    last_values: dict[str, Any] = {}
    for name, body in tree.items():
        values = [body[kind] for kind in body if kind in KINDS] if isinstance(body, dict) else []
        if values and isinstance(values[0], list) and values[0]:
            last_values[name] = values[0][-1]
    return last_values
