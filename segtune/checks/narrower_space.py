"""A narrower space in which the trials that ended for one cause would not have been drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from segtune.runs.results import BAD_ENDS, TrialResult
from segtune.runs.verdict import OUTRANKED
from segtune.tuning.space import Dimension, Space

# The settings whose lower values cure a cause. They decide if no trial was healthy.
CURED_BY_LESS = {
    "non-finite": ("optim.lr", "loss.focal.gamma"),
    "diverged": ("optim.lr", "optim.head_lr_mult"),
    "collapsed": ("optim.lr",),
    "forgetting": ("optim.lr",),
    "vanishing": ("loss.focal.gamma",),
    "out-of-memory": ("schedule.batch_size",),
}
# A cut must remove half of the unhealthy trials, and no more than one healthy trial for four
# unhealthy ones.
CUT_UNHEALTHY = 0.5
HEALTHY_PER_UNHEALTHY = 0.25


@dataclass(frozen=True)
class Cut:
    """A narrower dimension, and what its trials say."""

    before: Dimension
    after: Dimension
    num_unhealthy: int  # trials outside of `after` that ended for the cause
    num_healthy: int  # trials outside of `after` that did not

    @property
    def gain(self) -> float:
        """How much is won: larger is better."""
        return self.num_unhealthy - self.num_healthy / HEALTHY_PER_UNHEALTHY

    def __str__(self) -> str:
        others = f", and {self.num_healthy} others" if self.num_healthy else ""
        prior = self.before.prior if not self.after.prior else None
        return (
            f"{self.after.name}: {self.after} in place of {self.before} "
            f"(cuts off {self.num_unhealthy} trials with this end{others}"
            f"{f', and the {prior}' if prior else ''})"
        )


def narrower_space(
    space: Space, trials: Sequence[TrialResult], cause: str
) -> tuple[Space, Cut] | None:
    """Return a space with one narrower dimension, and the cut; None if no cut follows.

    `trials` are all that have ended, `cause` is the kind of the verdicts to avoid. The cut is the
    one range end or choice that separates these trials best from the healthy ones. If there is no
    healthy trial, it is the setting that CURED_BY_LESS names: below its lowest value so far.
    """
    ended = [trial for trial in trials if trial.state in (*BAD_ENDS, "completed", *OUTRANKED)]
    unhealthy = [trial.params for trial in ended if trial.state in BAD_ENDS and trial.kind == cause]
    healthy = [trial.params for trial in ended if trial.healthy]
    cuts = (
        list(_cuts(space, unhealthy, healthy)) if healthy else list(_cures(space, unhealthy, cause))
    )
    if not cuts:
        return None
    best = max(cuts, key=lambda cut: cut.gain)
    dimensions = (best.after if d is best.before else d for d in space.dimensions)
    return replace(space, dimensions=tuple(dimensions)), best


Params = Sequence[dict[str, Any]]


def _cuts(space: Space, unhealthy: Params, healthy: Params) -> Iterator[Cut]:
    """Yield the cuts that are worth it."""
    for dimension in space.dimensions:
        for after in _narrowed(dimension, [*unhealthy, *healthy]):
            cut = _cut(dimension, after, unhealthy, healthy)
            if cut.num_unhealthy >= CUT_UNHEALTHY * len(unhealthy) and cut.gain > 0:
                yield cut


def _cures(space: Space, unhealthy: Params, cause: str) -> Iterator[Cut]:
    """Yield dimensions that end below the lowest value so far."""
    for dimension in space.dimensions:
        values = [params[dimension.name] for params in unhealthy if _is_drawn(dimension, params)]
        if dimension.name in CURED_BY_LESS.get(cause, ()) and values:
            after = _below(dimension, min(values))
            if after:
                yield _cut(dimension, after, unhealthy, [])
                return


def _cut(before: Dimension, after: Dimension, unhealthy: Params, healthy: Params) -> Cut:
    return Cut(before, after, _num_outside(after, unhealthy), _num_outside(after, healthy))


def _num_outside(dimension: Dimension, points: Params) -> int:
    drawn = [params[dimension.name] for params in points if dimension.name in params]
    return sum(not dimension.contains(value) for value in drawn)


def _is_drawn(dimension: Dimension, params: dict[str, Any]) -> bool:
    """Whether a point has a value of this dimension; that of the config may lie outside."""
    return dimension.name in params and dimension.contains(params[dimension.name])


def _narrowed(dimension: Dimension, points: Params) -> Iterator[Dimension]:
    """Yield the dimension without one choice, or with another end between two drawn values."""
    if dimension.kind == "choice":
        if len(dimension.values) > 1:
            for choice in dimension.values:
                rest = tuple(value for value in dimension.values if value is not choice)
                yield dimension.with_values(rest)
        return
    values = sorted({params[dimension.name] for params in points if _is_drawn(dimension, params)})
    for left, right in pairwise(values):
        low_end, high_end = ends_between(dimension, left, right)
        low, high = dimension.values
        if low < low_end:
            yield dimension.with_values((low, low_end))
        if high_end < high:
            yield dimension.with_values((high_end, high))


def ends_between(dimension: Dimension, left: Any, right: Any) -> tuple[Any, Any]:
    """Return the end of a range below `right`, and the begin of one above `left`."""
    if dimension.kind == "int":
        middle = (left + right) // 2
        return middle, middle + 1
    is_log = dimension.kind == "loguniform"
    middle = math.sqrt(left * right) if is_log else (left + right) / 2
    short = float(f"{middle:.2g}")
    middle = short if left < short < right else middle
    return middle, middle


def _below(dimension: Dimension, value: Any) -> Dimension | None:
    """Return the part of a dimension below a drawn value; None if there is nothing."""
    if dimension.kind == "choice":
        rest = tuple(v for v in dimension.values if v is not None and v < value)
        return dimension.with_values(rest) if rest else None
    low, _ = dimension.values
    end, _ = ends_between(dimension, low, value)
    return dimension.with_values((low, end)) if low < end < value else None
