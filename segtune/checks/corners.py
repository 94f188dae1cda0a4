"""The corners of a space: the few trials most likely to run out of memory or to become non-finite.

Trains nothing: `corner_steps.py` takes real steps at each corner.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from segtune.checks.drawn_trials import accepted, conditions
from segtune.checks.findings import shown_value
from segtune.checks.gates import GATES
from segtune.tuning.space import Dimension
from segtune.tuning.study import Study

# Further corners are not tried; the report names them. With large networks, corners take minutes.
MAX_CORNERS = 12
ITSELF = "the config itself"
LARGEST_STEP = "largest step"
# The settings that decide how much memory a step takes, besides the model and the precision.
LARGE_IS_MORE = ("schedule.batch_size", "data.crop", "data.resize", "val.window")
LESS_IS_MORE = ("schedule.accumulate",)
FAST = ("optim.lr", "optim.head_lr_mult")
GAMMA = "loss.focal.gamma"
PRECISION = "optim.precision"


@dataclass(frozen=True)
class Corner:
    """A point of the space with an extreme value of one setting or of several."""

    name: str
    params: Mapping[str, Any]  # searched values that differ from the config
    key: str = ""  # the setting that a finding is about; empty: the config itself
    # The settings that are moved towards the config's own values if the corner fails.
    moved: tuple[str, ...] = ()

    @property
    def is_choice(self) -> bool:
        """Whether the corner is a choice, such as a model, together with the largest step."""
        return bool(self.moved) and self.key not in self.moved

    def moved_to(self, values: Mapping[str, Any], base: Mapping[str, Any]) -> Corner:
        """Return the corner with other values of the settings that are moved."""
        point = {**self.params, **values}
        params = {name: value for name, value in point.items() if value != base[name]}
        return replace(self, params=params)


@dataclass(frozen=True)
class Corners:
    """The corners of a space, the config itself first."""

    chosen: tuple[Corner, ...]
    left_out: tuple[str, ...] = ()  # each with the reason


def corners_of(study: Study) -> Corners:
    """Return the corners of a study's space, each point once, at most MAX_CORNERS of them."""
    chosen: list[Corner] = []
    left_out: list[str] = []
    known: set[str] = set()
    for corner in _candidates(study):
        point = json.dumps(corner.params, sort_keys=True)
        if point in known:
            continue
        known.add(point)
        if accepted(study, study.space.complete(corner.params)) is None:
            left_out.append(f"{corner.name} (the config refuses these values together)")
        elif len(chosen) == MAX_CORNERS:
            left_out.append(f"{corner.name} (only {MAX_CORNERS} corners are tried)")
        else:
            chosen.append(corner)
    return Corners(tuple(chosen), tuple(left_out))


def _candidates(study: Study) -> Iterator[Corner]:
    """Yield every corner, the most important ones first; some may be the same point."""
    yield Corner(ITSELF, {})
    dimensions = {d.name: d for d in study.space.dimensions}
    large = [*_extremes(dimensions, LARGE_IS_MORE, largest)]
    large += _extremes(dimensions, LESS_IS_MORE, smallest)
    if large:
        yield _corner(study, LARGEST_STEP, large)
    fast = _extremes(dimensions, FAST, largest)
    if fast:
        yield _corner(study, "largest learning rate", fast)
    if GAMMA in dimensions:
        gamma = dimensions[GAMMA]
        for word, value in (("smallest", smallest(gamma)), ("largest", largest(gamma))):
            yield _corner(study, f"{word} focal gamma", [(gamma, value)])
    for name in dimensions:
        if name == PRECISION or name.startswith("model."):
            for value in _models(dimensions[name]):
                label = f"{name} {shown_value(value)}"
                full_name = f"{label}, {LARGEST_STEP}" if large else label
                yield _corner(study, full_name, [(dimensions[name], value), *large], key=name)


def _corner(
    study: Study, name: str, values: Sequence[tuple[Dimension, Any]], key: str = ""
) -> Corner:
    """Return a corner with these values, and with those of the settings on which they depend.

    `key` is the setting that a finding is about; by default, the first one.
    """
    point: dict[str, Any] = {}
    for dimension, value in values:
        needed = {**conditions(study.space, dimension), **_opening(study, dimension)}
        if any(point.get(other, own) != own for other, own in needed.items()):
            continue  # its condition contradicts the one of an earlier setting
        point |= {**needed, dimension.name: value}
    complete = study.space.complete(point)
    params = {n: value for n, value in complete.items() if value != study.space.base[n]}
    moved = tuple(d.name for d, _ in values if d.name in params and d.name != key)
    return Corner(name, params, key or values[0][0].name, moved)


def _opening(study: Study, dimension: Dimension) -> dict[str, Any]:
    """Return the values of the space that give a setting an effect, if the config's own do not."""
    opened: dict[str, Any] = {}
    for gate in GATES.get(dimension.name, ()):
        if not gate.is_open(study.config):
            opened |= dict(gate.openings(study.space.dimensions)[:1])
    return opened


def _extremes(
    dimensions: Mapping[str, Dimension], names: Sequence[str], pick: Any
) -> list[tuple[Dimension, Any]]:
    present = [dimensions[name] for name in names if name in dimensions]
    return [(d, pick(d)) for d in present if sizes(d)]


def _models(dimension: Dimension) -> list[Any]:
    """Return every choice of a setting, or the largest value of its range."""
    return list(dimension.values) if dimension.kind == "choice" else [largest(dimension)]


def largest(dimension: Dimension) -> Any:
    """Return the largest value of a dimension of numbers or sizes."""
    return max(sizes(dimension), key=size_of)


def smallest(dimension: Dimension) -> Any:
    """Return the smallest value of a dimension of numbers or sizes."""
    return min(sizes(dimension), key=size_of)


def sizes(dimension: Dimension) -> list[Any]:
    """Return the values of a dimension that have a size: numbers, and lists of numbers."""
    return [value for value in dimension.values if size_of(value) is not None]


def size_of(value: Any) -> Any:
    """Return a number as it is, and the product of a list; None for any other value."""
    if isinstance(value, (list, tuple)) and value:
        numbers = [size_of(item) for item in value]
        return None if None in numbers else math.prod(numbers)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number else None
