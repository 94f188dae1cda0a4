"""Configs that a study draws, so that a rule can say how many of its trials break it.

The first draws of a sampler are uniform, as these are; half of them come from the priors of the
space, if it has any. Later on, a sampler draws where scores were high.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segtune.checks.findings import percent
from segtune.config.schema import ExperimentConfig
from segtune.errors import ConfigError
from segtune.tuning.space import Dimension, Space
from segtune.tuning.study import Study

if TYPE_CHECKING:
    import numpy

# Enough for a share of 5 % to be seen (0.95^100 = 0.006); reading a config takes about 1 ms.
NUM_DRAWS = 100


@dataclass(frozen=True)
class DrawnTrials:
    """The configs of trials that a study may draw, at the size of its proxy if it has one."""

    own: ExperimentConfig  # trial 0
    configs: tuple[ExperimentConfig, ...]  # drawn; at least one
    are_all: bool  # whether these are all trials of the search, as with a grid

    def share(self, breaks: Callable[[ExperimentConfig], bool]) -> float:
        """Return the share of the drawn trials for which `breaks` is true, in 0..1."""
        return sum(map(breaks, self.configs)) / len(self.configs)

    def words(self, share: float) -> str:
        """Return a share of the trials in words: `every trial`, `12 % of the trials`."""
        return "every trial" if share == 1 else f"{percent(share)} of the trials"


def draw_trials(study: Study, num_draws: int = NUM_DRAWS) -> DrawnTrials:
    """Return trial 0 and `num_draws` random trials, or those of the grid, which are fixed.

    Points that the config refuses are left out: a search draws them again. The random numbers are
    always the same.
    """
    points: Iterator[Mapping[str, Any]] | Sequence[Mapping[str, Any]]
    if study.search.sampler == "grid":
        points = study.points()[: study.search.trials]
        # The first NUM_DRAWS of a large grid are spread over it, because its order is random.
        points = points[:num_draws]
    else:
        points = random_points(study.space, num_draws)
    own = study.trial_config({})
    configs = [config for point in points if (config := accepted(study, point)) is not None]
    return DrawnTrials(own, tuple(configs) or (own,), study.search.sampler == "grid")


def random_points(space: Space, number: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield `number` random points of a space, uniform or, every second one, from its priors.

    Inactive settings are left out.
    """
    import numpy  # here, because a forecast is read without it

    rng = numpy.random.default_rng(seed)
    for index in range(number):
        from_prior = index % 2 == 1
        drawn = {d.name: _draw(d, rng, from_prior=from_prior) for d in space.dimensions}
        yield space.complete(drawn)


def _draw(dimension: Dimension, rng: numpy.random.Generator, *, from_prior: bool) -> Any:
    if dimension.prior and from_prior:
        return dimension.quantile(rng.random())
    if dimension.kind == "choice":
        return dimension.values[int(rng.integers(len(dimension.values)))]
    low, high = dimension.values
    match dimension.kind:
        case "int":
            return int(rng.integers(low, high + 1))
        case "loguniform":
            return float(math.exp(rng.uniform(math.log(low), math.log(high))))
        case _:
            return float(rng.uniform(low, high))


def accepted(study: Study, point: Mapping[str, Any]) -> ExperimentConfig | None:
    """Return the config of a trial with these values, or None if the config refuses them."""
    try:
        return study.trial_config(point)
    except ConfigError:
        return None


def conditions(space: Space, dimension: Dimension) -> dict[str, Any]:
    """Return the settings of a space that a setting's `when` asks for, with their own."""
    by_name = {d.name: d for d in space.dimensions}
    needed: dict[str, Any] = {}
    for name, value in dimension.when.items():
        if name in by_name:
            needed |= conditions(space, by_name[name]) | {name: value}
    return needed
