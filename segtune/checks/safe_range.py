"""Narrows a corner that has failed down to the largest values that work, with few further trials.

The values of a corner are moved towards the config's own along a ladder of at most nine rungs. The
rungs are equally spaced, for large ranges in the logarithm, and halving the ladder three times
finds the last healthy one. Trains nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from segtune.checks.corners import Corner, largest, size_of, sizes, smallest
from segtune.tuning.space import Dimension, Space

NUM_HALVINGS = 3
NUM_INTERVALS = 2**NUM_HALVINGS
WIDE = 10  # a range whose ends differ by this factor is halved in the logarithm

# Whether the steps at a corner were healthy.
IsHealthy = Callable[[Corner], bool]


@dataclass(frozen=True)
class SafeRange:
    """The last point that was healthy, and the next one, which was not."""

    healthy: Mapping[str, Any]  # of the settings that were moved
    failed: Mapping[str, Any]


def safe_range(space: Space, corner: Corner, is_healthy: IsHealthy) -> SafeRange | None:
    """Return where a failed corner begins to work; None if no point was healthy.

    `is_healthy` is called at most 1 + NUM_HALVINGS times, with the corner moved to milder values.
    """
    rungs = _ladder(space, corner)
    if len(rungs) < 2 or not is_healthy(corner.moved_to(rungs[0], space.base)):
        return None
    low, high = 0, len(rungs) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if is_healthy(corner.moved_to(rungs[middle], space.base)):
            low = middle
        else:
            high = middle
    return SafeRange(rungs[low], rungs[high])


def _ladder(space: Space, corner: Corner) -> list[dict[str, Any]]:
    """Return the values of the moved settings, from the mildest to the corner, each once."""
    # A model is tried with a smaller step, down to the config's own, if the largest one has failed.
    ends = {**space.base, **corner.params}
    dimensions = [d for d in space.dimensions if d.name in corner.moved]
    values = {d.name: _values(d, space.base[d.name], ends[d.name]) for d in dimensions}
    rungs: list[dict[str, Any]] = []
    for number in range(NUM_INTERVALS + 1):
        rung = {
            name: steps[round(number * (len(steps) - 1) / NUM_INTERVALS)]
            for name, steps in values.items()
        }
        if rung not in rungs:
            rungs.append(rung)
    return rungs


def _values(dimension: Dimension, own: Any, end: Any) -> list[Any]:
    """Return values of a setting from a mild one to `end`.

    The first is the config's own if the space has it, otherwise the one that is farthest from
    `end`.
    """
    start = own
    if not dimension.contains(own):
        start = largest(dimension) if end == smallest(dimension) else smallest(dimension)
    if dimension.kind != "choice":
        return _interpolated(dimension, start, end)
    if size_of(start) is None:
        return [start, end]
    bounds = sorted((size_of(start), size_of(end)))
    between = [value for value in sizes(dimension) if bounds[0] <= size_of(value) <= bounds[1]]
    return sorted(between, key=size_of, reverse=size_of(start) > size_of(end))


def _interpolated(dimension: Dimension, start: float, end: float) -> list[Any]:
    """Return values of a range; those in between are rounded to what a message shows of them."""
    shares = [number / NUM_INTERVALS for number in range(1, NUM_INTERVALS)]
    low, high = sorted((start, end))
    if low > 0 and (dimension.kind == "loguniform" or high / low > WIDE):
        inner = [math.exp(math.log(start) + share * math.log(end / start)) for share in shares]
    else:
        inner = [start + share * (end - start) for share in shares]
    if dimension.kind == "int":
        return [start, *(round(value) for value in inner), end]
    return [start, *(float(f"{value:.3g}") for value in inner), end]


def narrowed(dimension: Dimension, healthy: Any, end: Any) -> Dimension:
    """Return a dimension without the values between `healthy` and the failed `end`."""
    if dimension.kind == "choice":
        kept = tuple(v for v in dimension.values if not _is_beyond(v, healthy, end))
        return dimension.with_values(kept)
    low, high = dimension.values
    values = (low, healthy) if healthy < end else (healthy, high)
    if values[0] == values[1]:
        return replace(dimension, kind="choice", values=(healthy,), prior=None)
    return dimension.with_values(values)


def _is_beyond(value: Any, healthy: Any, end: Any) -> bool:
    size, limit = size_of(value), size_of(healthy)
    if size is None or limit is None:
        return size is not None
    return size > limit if limit < size_of(end) else size < limit


def without(dimension: Dimension, value: Any) -> Dimension:
    """Return a choice without one of its values."""
    return dimension.with_values(tuple(v for v in dimension.values if v != value))


def space_line(dimension: Dimension) -> str:
    """Return a dimension as the user writes it in a space, in one line."""
    text = json.dumps(dimension.dump()).replace('"', "")
    return f"{dimension.name}: {text}"
