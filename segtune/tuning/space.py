"""What may vary in a config, and how: YAML -> a picklable callable for Optuna's define-by-run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from segtune.config.schema import ExperimentConfig
from segtune.config.settings import section_of
from segtune.config.yaml_io import Source, Tree
from segtune.errors import ConfigError, nearest

if TYPE_CHECKING:
    import optuna


KINDS = ("uniform", "loguniform", "int", "choice")


@dataclass(frozen=True)
class Dimension:
    """One setting that varies: `values` are the two ends of a range, or the choices."""

    name: str
    kind: str
    values: tuple[Any, ...]
    when: Mapping[str, Any] = field(default_factory=dict)

    def suggest(self, trial: optuna.trial.BaseTrial) -> Any:
        """Returns the value that Optuna draws for this setting."""
        match self.kind:
            case "choice":
                return trial.suggest_categorical(self.name, self.values)
            case "int":
                return trial.suggest_int(self.name, *self.values)
            case _:
                return trial.suggest_float(self.name, *self.values, log=self.kind == "loguniform")

    def grid(self, points: int) -> list[Any]:
        """Returns the choices, or `points` values of a range at equal distances (in the logarithm where it is drawn so)."""
        if self.kind == "choice":
            return list(self.values)
        low, high = self.values
        shares = [i / (points - 1) for i in range(points)]
        if self.kind == "int":
            return sorted({round(low + share * (high - low)) for share in shares})
        if self.kind == "loguniform":
            inner = [
                math.exp(math.log(low) + share * math.log(high / low)) for share in shares[1:-1]
            ]
        else:
            inner = [low + share * (high - low) for share in shares[1:-1]]
        return [low, *(float(f"{value:.6g}") for value in inner), high]

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """Returns what `suggest` draws from, as Optuna records it."""
        from optuna import distributions

        match self.kind:
            case "choice":
                return distributions.CategoricalDistribution(self.values)
            case "int":
                return distributions.IntDistribution(*self.values)
            case _:
                return distributions.FloatDistribution(*self.values, log=self.kind == "loguniform")

    def contains(self, value: Any) -> bool:
        """Whether `value` lies in the range, ends included, or among the choices."""
        if self.kind == "choice":
            return any(
                value == v and isinstance(value, bool) == isinstance(v, bool) for v in self.values
            )
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return self.values[0] <= value <= self.values[1] and (
            self.kind != "int" or value == int(value)
        )

    def dump(self) -> Tree:
        """Returns the dimension as it is written in YAML."""
        return {self.kind: list(self.values)} | ({"when": dict(self.when)} if self.when else {})


@dataclass(frozen=True)
class Space:
    """The settings that vary together. Calling it with an Optuna trial draws the active ones."""

    dimensions: tuple[Dimension, ...]
    base: Mapping[str, Any]  # the config's own value of every name that a `when` may ask for

    @property
    def names(self) -> tuple[str, ...]:
        """The dotted names of all settings that vary."""
        return tuple(d.name for d in self.dimensions)

    def __call__(self, trial: optuna.trial.BaseTrial) -> dict[str, Any]:
        """Returns {dotted name: value} of the settings that are active, each drawn by `trial`."""
        drawn: dict[str, Any] = {}
        for dimension in self.dimensions:
            if self._active(dimension, drawn):
                drawn[dimension.name] = dimension.suggest(trial)
        return drawn

    def complete(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the active settings of a point; a name that the point leaves out has the config's own value."""
        chosen: dict[str, Any] = {}
        for dimension in self.dimensions:
            if self._active(dimension, chosen):
                chosen[dimension.name] = point.get(dimension.name, self.base[dimension.name])
        return chosen

    def distributions(
        self, point: Mapping[str, Any]
    ) -> dict[str, optuna.distributions.BaseDistribution]:
        """Returns Optuna's distribution of each setting of a point."""
        return {d.name: d.distribution() for d in self.dimensions if d.name in point}

    def grid(self, points: int) -> list[dict[str, Any]]:
        """Returns every combination of the dimensions' grids, inactive settings left out, no combination twice."""
        found: list[dict[str, Any]] = [{}]
        for dimension in self.dimensions:
            found = [
                {**chosen, **extra}
                for chosen in found
                for extra in (
                    [{dimension.name: v} for v in dimension.grid(points)]
                    if self._active(dimension, chosen)
                    else [{}]
                )
            ]
        return found

    def outside(self, point: Mapping[str, Any]) -> list[str]:
        """Returns one message per setting of `point` that this space cannot draw."""
        by_name = {d.name: d for d in self.dimensions}
        problems = [
            f"{name}: not in the space{nearest(name, by_name)}"
            for name in point
            if name not in by_name
        ]
        return problems + [
            f"{name}: {value!r} is outside {by_name[name].kind} {list(by_name[name].values)}"
            for name, value in point.items()
            if name in by_name and not by_name[name].contains(value)
        ]

    def _active(self, dimension: Dimension, drawn: Mapping[str, Any]) -> bool:
        varying = set(self.names)
        return all(
            (drawn.get(name) if name in varying else self.base[name]) == value
            for name, value in dimension.when.items()
        )

    def dump(self) -> Tree:
        """Returns the space as it is written in YAML."""
        return {d.name: d.dump() for d in self.dimensions}

    @classmethod
    def parse(cls, tree: Any, config: ExperimentConfig, source: Source, prefix: str = "") -> Space:
        """Reads {dotted name: {kind: values, when: …}}; `prefix` is the space's place in its file.

        Raises ConfigError that lists every mistake: unknown names, wrong bounds, ends that the config would refuse.
        """
        if not isinstance(tree, dict) or not tree:
            raise ConfigError(
                [
                    f"{source.place(prefix.rstrip('.'))}: expected settings that vary, for example optim.lr: {{loguniform: [1e-5, 1e-3]}}"
                ]
            )
        reader = _Reader(config, source, prefix, tree)
        dimensions = [reader.read(str(name), body) for name, body in tree.items()]
        if reader.problems:
            raise ConfigError(reader.problems)
        found = tuple(d for d in dimensions if d)
        asked = {name for d in found for name in d.when} | {d.name for d in found}
        return cls(found, {name: config.get(name) for name in asked})


class _Reader:
    """Reads dimensions one by one and collects what is wrong with them."""

    def __init__(
        self, config: ExperimentConfig, source: Source, prefix: str, tree: Mapping[str, Any]
    ) -> None:
        self.config, self.source, self.prefix, self.order = config, source, prefix, tuple(tree)
        bodies = {
            name: [v for k, v in body.items() if k in KINDS]
            for name, body in tree.items()
            if isinstance(body, dict)
        }
        self.tops = {
            name: found[0][-1]
            for name, found in bodies.items()
            if found and isinstance(found[0], list) and found[0]
        }
        self.problems: list[str] = []
        self.allowed = [
            n for n, info in ExperimentConfig.names().items() if not section_of(info.annotation)
        ]

    def _wrong(self, name: str, text: str) -> None:
        self.problems.append(f"{self.source.place(self.prefix + name)}: {text}")

    def read(self, name: str, body: Any) -> Dimension | None:
        if name not in self.allowed:
            return self._wrong(name, f"no such setting{nearest(name, self.allowed)}")
        if not isinstance(body, dict):
            return self._wrong(
                name, f"expected one of {', '.join(KINDS)} with its values, got {body!r}"
            )
        kinds = [key for key in body if key != "when"]
        if len(kinds) != 1 or kinds[0] not in KINDS:
            wrong = next((k for k in kinds if k not in KINDS), None)
            return self._wrong(
                name,
                f"expected exactly one of {', '.join(KINDS)}, got {kinds}"
                + (nearest(str(wrong), KINDS) if wrong else ""),
            )
        values = self._values(name, kinds[0], body[kinds[0]])
        when = self._when(name, body.get("when", {}))
        if values is None or when is None:
            return None
        self._check_ends(name, values, when)
        return Dimension(name, kinds[0], values, when)

    def _values(self, name: str, kind: str, values: Any) -> tuple[Any, ...] | None:
        if (
            not isinstance(values, list)
            or len(values) < 2
            or (kind != "choice" and len(values) != 2)
        ):
            return self._wrong(
                name,
                f"{kind} takes {'two or more values' if kind == 'choice' else '[low, high]'}, got {values!r}",
            )
        if kind == "choice":
            if len({repr(v) for v in values}) != len(values):
                return self._wrong(name, f"choice: a value is given twice in {values!r}")
            return tuple(values)
        types = (int,) if kind == "int" else (int, float)
        if any(
            isinstance(v, bool) or not isinstance(v, types) or not math.isfinite(v) for v in values
        ):
            return self._wrong(
                name,
                f"{kind} takes two finite {'whole ' if kind == 'int' else ''}numbers, got {values!r}",
            )
        if values[0] >= values[1]:
            return self._wrong(name, f"{kind}: low must be less than high, got {values!r}")
        if kind == "loguniform" and values[0] <= 0:
            return self._wrong(name, f"loguniform: low must be above 0, got {values!r}")
        return tuple(float(v) for v in values) if kind != "int" else tuple(values)

    def _when(self, name: str, when: Any) -> dict[str, Any] | None:
        if not isinstance(when, dict):
            return self._wrong(name, f"when takes {{name: value}}, got {when!r}")
        earlier = self.order[: self.order.index(name)]
        for parent, value in when.items():
            if parent not in self.allowed:
                return self._wrong(
                    name, f"when: {parent}: no such setting{nearest(str(parent), self.allowed)}"
                )
            if parent in self.order and parent not in earlier:
                return self._wrong(
                    name, f"when: {parent} must stand above this setting in the space"
                )
            if problem := self._refused({parent: value}):
                return self._wrong(name, f"when: {problem}")
        return when

    def _check_ends(self, name: str, values: tuple[Any, ...], when: Mapping[str, Any]) -> None:
        for value in values:
            problem = self._refused({**when, name: value})
            # A weight of 0 is possible as long as another weight of the space is not 0 too.
            if problem and self._refused({**self.tops, **when, name: value}):
                self._wrong(name, f"value {value!r} is not possible: {problem}")

    def _refused(self, changes: Mapping[str, Any]) -> str:
        try:
            self.config.override(changes, Source(""))
        except ConfigError as error:
            return "; ".join(error.problems)
        return ""
