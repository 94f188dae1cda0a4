"""A search space: which settings of a config vary, and over which values.

Picklable, because Tune sends the study to every trial. Samplers decide which values
to try next. `space_reader.py` reads a space from YAML.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from segtune.config.yaml_io import Tree
from segtune.errors import nearest
from segtune.tuning.prior import Prior, option_at

if TYPE_CHECKING:
    import optuna


KINDS = ("uniform", "loguniform", "int", "choice")


@dataclass(frozen=True)
class Dimension:
    """One setting that varies."""

    name: str
    kind: str  # one of KINDS
    values: tuple[Any, ...]  # the choices, or the two ends of a range
    # Other settings and the values that they must have; otherwise this setting is inactive.
    when: Mapping[str, Any] = field(default_factory=dict)
    prior: Prior | None = None  # None: no value is believed to be better than another

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

    def with_values(self, values: tuple[Any, ...]) -> Dimension:
        """Return the dimension with other choices or ends; without a prior that lies outside."""
        changed = replace(self, values=values)
        is_inside = self.prior is not None and changed.contains(self.prior.value)
        return changed if is_inside else replace(changed, prior=None)

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

    def index_of(self, value: Any) -> int | None:
        """Return the index of a choice, or None if it is not one of the choices."""
        for index, choice in enumerate(self.values):
            # In Python, True == 1; as settings they differ.
            if isinstance(choice, bool) == isinstance(value, bool) and choice == value:
                return index
        return None

    def unit_value(self, value: float) -> float:
        """Return where a value of a range lies: 0 at its low end, 1 at its high end."""
        low, high = self.values
        if self.kind == "loguniform":
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)

    def quantile(self, share: float) -> Any:
        """Return the value below which `share` (0 to less than 1) of the prior's probability lies.

        Without a prior, every value of a range and every choice is equally likely, for loguniform
        in the logarithm. If `share` is drawn uniformly, the value is drawn from the prior.
        """
        if self.kind == "choice":
            return self.values[option_at(self._probabilities(), share)]
        low, high = self.values
        position = self.prior.on_range(self._middle).quantile(share) if self.prior else share
        if self.kind == "int":
            return min(low + int(position * (high - low + 1)), high)
        if self.kind == "loguniform":
            return min(max(low * (high / low) ** position, low), high)
        return min(low + position * (high - low), high)

    @property
    def _middle(self) -> float:
        """The position of the prior's value in a range, in 0..1: of a whole number, its middle."""
        assert self.prior
        low, high = self.values
        if self.kind == "int":
            return (self.prior.value - low + 0.5) / (high - low + 1)
        return self.unit_value(self.prior.value)

    def _probabilities(self) -> list[float]:
        """Return the probability of each choice under the prior."""
        index = self.index_of(self.prior.value) if self.prior else None
        if self.prior is None or index is None:
            return [1 / len(self.values)] * len(self.values)
        return self.prior.on_options(index, len(self.values))

    def contains(self, value: Any) -> bool:
        """Whether `value` is one of the choices, or lies in the range, ends included."""
        if self.kind == "choice":
            return self.index_of(value) is not None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        low, high = self.values
        return low <= value <= high and (self.kind != "int" or value == int(value))

    def dump(self) -> Tree:
        """Return the dimension as it is written in YAML."""
        tree: Tree = {self.kind: list(self.values)}
        if self.prior:
            tree |= {"prior": self.prior.value, "confidence": self.prior.confidence}
        return tree | ({"when": dict(self.when)} if self.when else {})

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

    @property
    def has_priors(self) -> bool:
        """Whether any setting has a prior."""
        return any(dimension.prior for dimension in self.dimensions)

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
