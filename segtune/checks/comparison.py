"""Compares the observations of a setting's values: which values differ. Observes nothing itself."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from segtune.checks.findings import shown_value
from segtune.checks.observations import Observation
from segtune.errors import ConfigError, WeightsError
from segtune.tuning.space import Dimension


class Comparison:
    """The values of a setting without a difference so far, and the first difference."""

    def __init__(self, dimension: Dimension, own_value: Any) -> None:
        self.name = dimension.name
        self.is_choice = dimension.kind == "choice"
        values = list(dimension.values) if self.is_choice else dimension.grid(3)
        # A setting with one choice is live if it differs from the config's own value.
        if len(values) == 1 and own_value != values[0]:
            values.append(own_value)
        self.values = values
        self.equal = set(itertools.combinations(range(len(values)), 2))
        self.num_pairs = len(self.equal)
        self.evidence = ""
        self.problems: dict[int, ConfigError | WeightsError] = {}  # of values not built
        self.built: set[int] = set()

    @property
    def is_live(self) -> bool:
        """Whether two values have been told apart."""
        return bool(self.evidence)

    @property
    def alike(self) -> tuple[Any, ...]:
        """Two choices that were compared and are equal; empty if there are none."""
        pairs = [pair for pair in sorted(self.equal) if self.built.issuperset(pair)]
        return tuple(self.values[i] for i in pairs[0]) if self.is_choice and pairs else ()

    @property
    def unbuilt(self) -> str:
        """The first value that was never built, and why; empty if all were."""
        never = [index for index in self.problems if index not in self.built]
        if not never:
            return ""
        first, more = never[0], len(never) - 1
        also = f" (and {more} more values)" if more else ""
        return f"{shown_value(self.values[first])}{also} cannot be built: {self.problems[first]}"

    @property
    def lacks_weights(self) -> bool:
        """Whether no value failed for another reason than missing weights."""
        return all(isinstance(error, WeightsError) for error in self.problems.values())

    @property
    def is_decided(self) -> bool:
        """Whether every choice, or some values of a range, have been told apart."""
        return not self.equal if self.is_choice else self.is_live

    def compare(self, seen: Mapping[int, Observation]) -> None:
        """Tell values apart whose observations differ."""
        for first, second in sorted(self.equal):
            if first in seen and second in seen and not seen[first].same(seen[second]):
                self.equal.discard((first, second))
                if not self.evidence:
                    ours, theirs = seen[first], seen[second]
                    self.evidence = (
                        f"{ours.what} with {shown_value(self.values[first])}: {ours.value}; "
                        f"with {shown_value(self.values[second])}: {theirs.value}"
                    )
