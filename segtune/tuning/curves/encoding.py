"""Points of a space as rows of numbers, for a Gaussian process."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segtune.tuning.space import Dimension, Space

INACTIVE = 0.5  # the middle of a range, so that an inactive setting is near all values
CHOICE_SCALE = 0.5  # two choices are as far apart as the ends of 0.7 of a range


class Encoding:
    """Translates points of a space to rows of numbers and back.

    A row holds the `coordinates` of a point: one column for a range, one per option of a choice.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self.columns: dict[str, slice] = {}
        start = 0
        for dimension in space.dimensions:
            width = len(dimension.values) if dimension.kind == "choice" else 1
            self.columns[dimension.name] = slice(start, start + width)
            start += width
        self.width = start

    def encode(self, points: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Return points as rows [N, width]. Values outside of the space count as its ends."""
        rows = [coordinates(self.space, point) for point in points]
        return np.array(rows).reshape(len(points), self.width)

    def decode(self, row: np.ndarray) -> dict[str, Any]:
        """Return the point that a row stands for, with its active settings."""
        values = {d.name: _decoded(d, row[self.columns[d.name]]) for d in self.space.dimensions}
        return self.space.complete(values)

    def draw(self, number: int, random: np.random.Generator) -> np.ndarray:
        """Return rows [number, width] of random points."""
        rows = random.uniform(size=(number, self.width))
        for dimension in self.space.dimensions:
            if dimension.kind == "choice":
                self._choose(rows, dimension, random)
        return self.tidy(rows)

    def vary(self, rows: np.ndarray, spread: float, random: np.random.Generator) -> np.ndarray:
        """Return a random neighbour of each row.

        In about half of the columns, a range moves by a normal deviate of `spread`, a fraction of
        the range. A choice is drawn again with probability `spread`.
        """
        moves = random.normal(0.0, spread, rows.shape) * (random.uniform(size=rows.shape) < 0.5)
        varied = np.clip(rows + moves, 0.0, 1.0)
        for dimension in self.space.dimensions:
            if dimension.kind == "choice":
                columns = self.columns[dimension.name]
                varied[:, columns] = rows[:, columns]
                again = random.uniform(size=len(rows)) < spread
                drawn = varied[again]
                self._choose(drawn, dimension, random)
                varied[again] = drawn
        return self.tidy(varied)

    def tidy(self, rows: np.ndarray) -> np.ndarray:
        """Return rows as they are after decoding: whole numbers rounded, inactive settings set."""
        return self.encode([self.decode(row) for row in rows])

    def _choose(self, rows: np.ndarray, dimension: Dimension, random: np.random.Generator) -> None:
        """Draw a choice at random, in place."""
        columns = self.columns[dimension.name]
        options = random.integers(len(dimension.values), size=len(rows))
        rows[:, columns] = CHOICE_SCALE * np.eye(len(dimension.values))[options]


def coordinates(space: Space, point: Mapping[str, Any]) -> np.ndarray:
    """Return a point as numbers in 0..1: one per numeric setting, one per option of a choice.

    A setting that is drawn on a logarithmic scale is measured on one. The chosen option has
    CHOICE_SCALE, the others have 0. An inactive setting has INACTIVE, or 0 for each option.
    """
    numbers: list[float] = []
    for dimension in space.dimensions:
        value = point.get(dimension.name)
        if dimension.kind == "choice":
            chosen = None if value is None else dimension.index_of(value)
            numbers += [CHOICE_SCALE * (i == chosen) for i in range(len(dimension.values))]
        else:
            numbers.append(INACTIVE if value is None else _clipped_position(dimension, value))
    return np.array(numbers)


def _clipped_position(dimension: Dimension, value: float) -> float:
    """Return the position of a value in its range, in 0..1. A value outside counts as an end."""
    low, high = dimension.values
    return dimension.unit_value(min(max(value, low), high))


def _decoded(dimension: Dimension, columns: np.ndarray) -> Any:
    if dimension.kind == "choice" or dimension.is_fixed:
        return dimension.values[int(columns.argmax())]
    low, high = dimension.values
    share = float(columns[0])
    if dimension.kind == "loguniform":
        return min(max(math.exp(math.log(low) + share * math.log(high / low)), low), high)
    if dimension.kind == "int":  # each value has an equal part of 0..1
        return min(low + int(share * (high - low + 1)), high)
    return low + share * (high - low)
