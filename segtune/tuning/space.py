"""A search space: which settings of a config vary, and over which values.

Read from YAML. Picklable, because Tune sends the study to every trial. Samplers decide which values
to try next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from segtune.config.allowed import allowed_values
from segtune.config.schema import ExperimentConfig
from segtune.config.settings import nearest_setting, section_of
from segtune.config.yaml_io import Source, Tree
from segtune.errors import ConfigError, nearest

if TYPE_CHECKING:
    import optuna


KINDS = ("uniform", "loguniform", "int", "choice")
# Words of other tools, and what to write instead.
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
}


@dataclass(frozen=True)
class Dimension:
    """One setting that varies."""

    name: str
    kind: str  # one of KINDS
    values: tuple[Any, ...]  # the choices, or the two ends of a range
    # Other settings and the values that they must have; otherwise this setting is inactive.
    when: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_fixed(self) -> bool:
        """Whether there is only one value to draw."""
        return len(self.values) == 1

    def suggest(self, trial: optuna.trial.BaseTrial) -> Any:
        """Return the value that an Optuna trial suggests for this setting."""
        match self.kind:
            case "choice":
                return trial.suggest_categorical(self.name, self.values)
            case "int":
                return trial.suggest_int(self.name, *self.values)
            case _:
                return trial.suggest_float(self.name, *self.values, log=self.kind == "loguniform")

    def grid(self, num_points: int) -> list[Any]:
        """Return all choices, or `num_points` values of a range, both ends included.

        The values of a range are equally spaced, for loguniform in the logarithm. Whole numbers are
        rounded, and there may be fewer than `num_points` of them.
        """
        if self.kind == "choice":
            return list(self.values)
        low, high = self.values
        shares = [i / (num_points - 1) for i in range(num_points)]
        if self.kind == "int":
            return sorted({round(low + share * (high - low)) for share in shares})
        if self.kind == "loguniform":
            log_low, log_range = math.log(low), math.log(high / low)
            inner = [math.exp(log_low + share * log_range) for share in shares[1:-1]]
        else:
            inner = [low + share * (high - low) for share in shares[1:-1]]
        return [low, *(float(f"{value:.6g}") for value in inner), high]

    def whole_values(self) -> Sequence[int]:
        """Return the whole numbers that are drawn, in ascending order; null is left out."""
        if self.kind == "choice":
            return sorted(value for value in self.values if value is not None)
        low, high = self.values
        return range(low, high + 1)

    def widened_to(self, value: Any) -> Dimension:
        """Return the dimension with one more value, which lies outside of it."""
        if self.kind == "choice":
            return replace(self, values=(*self.values, value))
        low, high = min(*self.values, value), max(*self.values, value)
        # A logarithmic range cannot begin at 0.
        kind = "uniform" if self.kind == "loguniform" and low <= 0 else self.kind
        return replace(self, kind=kind, values=(low, high))

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """Return Optuna's distribution of the values that `suggest` draws."""
        from optuna import distributions

        match self.kind:
            case "choice":
                return distributions.CategoricalDistribution(self.values)
            case "int":
                return distributions.IntDistribution(*self.values)
            case _:
                return distributions.FloatDistribution(*self.values, log=self.kind == "loguniform")

    def contains(self, value: Any) -> bool:
        """Whether `value` is one of the choices, or lies in the range, ends included."""
        if self.kind == "choice":
            # In Python, True == 1; as settings they differ.
            same_type = [v for v in self.values if isinstance(v, bool) == isinstance(value, bool)]
            return value in same_type
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        low, high = self.values
        return low <= value <= high and (self.kind != "int" or value == int(value))

    def dump(self) -> Tree:
        """Return the dimension as it is written in YAML."""
        return {self.kind: list(self.values)} | ({"when": dict(self.when)} if self.when else {})

    def __str__(self) -> str:
        return f"{self.kind} {list(self.values)}"


@dataclass(frozen=True)
class Space:
    """The settings that vary together. A point is {dotted name: value} of the active ones."""

    dimensions: tuple[Dimension, ...]
    base: Mapping[str, Any]  # the config's own value of every name in a dimension or in a `when`

    @property
    def names(self) -> tuple[str, ...]:
        """The dotted names of all settings that vary."""
        return tuple(d.name for d in self.dimensions)

    def __call__(self, trial: optuna.trial.BaseTrial) -> dict[str, Any]:
        """Return a point drawn by an Optuna trial, one dimension after the other."""
        drawn: dict[str, Any] = {}
        for dimension in self.dimensions:
            if self._is_active(dimension, drawn):
                drawn[dimension.name] = dimension.suggest(trial)
        return drawn

    def complete(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return `point` with the config's own value for each active setting that it leaves out.

        Inactive settings and names outside the space are dropped. The values may lie outside the
        ranges, see `outside`.
        """
        completed: dict[str, Any] = {}
        for dimension in self.dimensions:
            if self._is_active(dimension, completed):
                own_value = self.base[dimension.name]
                completed[dimension.name] = point.get(dimension.name, own_value)
        return completed

    def distributions(
        self, point: Mapping[str, Any]
    ) -> dict[str, optuna.distributions.BaseDistribution]:
        """Return Optuna's distribution of each setting of a point."""
        return {d.name: d.distribution() for d in self.dimensions if d.name in point}

    def grid(self, num_points: int) -> list[dict[str, Any]]:
        """Return every combination of the dimensions' grids, each once.

        Settings that are inactive in a combination are left out of it.
        """
        combinations: list[dict[str, Any]] = [{}]
        for dimension in self.dimensions:
            extended: list[dict[str, Any]] = []
            for point in combinations:
                if self._is_active(dimension, point):
                    extended += [{**point, dimension.name: v} for v in dimension.grid(num_points)]
                else:
                    extended.append(point)
            combinations = extended
        return combinations

    def widened_to(self, points: Sequence[Mapping[str, Any]]) -> Space:
        """Return a space that contains `points`, completed with the config's own values."""
        widened = {dimension.name: dimension for dimension in self.dimensions}
        for point in map(self.complete, points):
            for name, value in point.items():
                if not widened[name].contains(value):
                    widened[name] = widened[name].widened_to(value)
        return replace(self, dimensions=tuple(widened.values()))

    def missed_by(self, point: Mapping[str, Any]) -> list[Dimension]:
        """Return the dimensions whose range or choices do not contain the value in `point`."""
        return [d for d in self.dimensions if d.name in point and not d.contains(point[d.name])]

    def outside(self, point: Mapping[str, Any]) -> list[str]:
        """Return one message for each setting of `point` that this space cannot draw."""
        names = self.names
        unknown = [name for name in point if name not in names]
        return [f"{name}: not in the space{nearest(name, names)}" for name in unknown] + [
            f"{d.name}: {point[d.name]!r} is outside {d}" for d in self.missed_by(point)
        ]

    def _is_active(self, dimension: Dimension, point: Mapping[str, Any]) -> bool:
        """Whether the conditions of a dimension hold, given the dimensions above it in `point`."""
        names = self.names
        return all(
            (name in point and point[name] == value) if name in names else self.base[name] == value
            for name, value in dimension.when.items()
        )

    def dump(self) -> Tree:
        """Return the space as it is written in YAML."""
        return {d.name: d.dump() for d in self.dimensions}

    @classmethod
    def parse(cls, tree: Any, config: ExperimentConfig, source: Source, prefix: str = "") -> Space:
        """Read a space from {dotted name: {kind: values, when: {name: value}}}.

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
        return cls(dimensions, {name: config.get(name) for name in names})


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
        kind = next(key for key in body if key != "when")
        problems = [
            _values_problem(kind, body[kind]) or _kind_problem(name, kind, body[kind]),
            self._when_problem(name, when),
        ]
        if any(problems):
            return self._report(name, *problems)
        values = body[kind] if kind in ("choice", "int") else map(float, body[kind])
        dimension = Dimension(name, kind, tuple(values), when)
        self._report(name, *(self._value_problem(dimension, v) for v in dimension.values))
        return dimension

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
        kinds = [key for key in body if key != "when"]
        if len(kinds) == 1 and kinds[0] in KINDS:
            return ""
        unknown = next((str(kind) for kind in kinds if kind not in KINDS), "")
        foreign = FOREIGN_WORDS.get(unknown)
        hint = f"; {foreign}" if foreign else nearest(unknown, KINDS) if unknown else ""
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
