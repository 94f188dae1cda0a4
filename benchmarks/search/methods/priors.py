"""Priors for a task: near the best of its configs, as a good guess has it, or near the worst."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from benchmarks.search.tasks import Task, seed_of
from segtune.tuning.prior import Prior
from segtune.tuning.space import Dimension, Space

# How far a guess is from the config that it means: the standard deviation, as a share of a range.
ERROR = 0.1


def space_with_priors(task: Task, seed: int, *, is_good: bool) -> Space:
    """Return the space of a task with a prior of medium confidence on each range.

    The guess differs from the best config (`is_good`) or from the worst by a random error, which
    depends on the task and the seed. Choices get no error; settings that the config lacks, no
    prior.
    """
    best, worst = task.extremes()
    meant = best if is_good else worst
    rng = np.random.default_rng(seed_of(task.name, "prior", is_good, seed))

    def with_prior(dimension: Dimension) -> Dimension:
        error = rng.normal(scale=ERROR)
        if dimension.name not in meant:
            return dimension
        value = meant[dimension.name]
        if dimension.kind != "choice":
            position = min(max(dimension.unit_value(value) + error, 0.0), 1.0)
            value = replace(dimension, prior=None).quantile(position)
        return replace(dimension, prior=Prior(value, "medium"))

    return replace(task.space, dimensions=tuple(map(with_prior, task.space.dimensions)))
