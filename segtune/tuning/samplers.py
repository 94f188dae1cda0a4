"""Optuna's samplers by name."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from segtune.tuning.space import Space
from segtune.tuning.study import SearchConfig

# Trials drawn at random before TPE, CMA-ES and GP have a model (Bergstra et al. 2011; Optuna's default).
STARTUP_TRIALS = 10


class SpaceTPE(optuna.samplers.TPESampler):
    """Multivariate TPE that is told which settings are always there; Optuna looks that up in all trials at every draw."""

    def __init__(self, space: Space, **options: Any) -> None:
        super().__init__(multivariate=True, **options)
        self.always = {
            d.name: d.distribution()
            for d in sorted(space.dimensions, key=lambda d: d.name)
            if not d.when
        }

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Returns the settings that are drawn together."""
        return self.always


def make_sampler(search: SearchConfig, space: Space, number: int) -> optuna.samplers.BaseSampler:
    """Returns the sampler of one trial. Its seed follows from the number, so a resumed search draws as an unbroken one."""
    seed = _seed(search.seed, number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match search.sampler:
            case "tpe":
                options: dict[str, Any] = {
                    "seed": seed,
                    "n_startup_trials": STARTUP_TRIALS,
                    "constant_liar": search.constant_liar,
                }
                return (
                    SpaceTPE(space, **options)
                    if search.multivariate
                    else optuna.samplers.TPESampler(multivariate=False, **options)
                )
            case "cmaes":
                return optuna.samplers.CmaEsSampler(
                    seed=seed,
                    n_startup_trials=STARTUP_TRIALS,
                    consider_pruned_trials=True,
                    warn_independent_sampling=False,
                )
            case "gp":
                return optuna.samplers.GPSampler(
                    seed=seed, n_startup_trials=STARTUP_TRIALS, warn_independent_sampling=False
                )
            case "random" | "grid":  # the points of a grid are given, see Study.points
                return optuna.samplers.RandomSampler(seed=seed)


@contextmanager
def sampler_warmed_up(search: SearchConfig, space: Space) -> Iterator[None]:
    """Has the sampler draw a point that nobody needs, beside the block.

    The first draw of the Gaussian process imports torch. In the middle of a search workers would wait for it, for seconds; while
    Ray starts, the machine waits anyway.
    """
    if search.sampler != "gp" or search.trials <= STARTUP_TRIALS:
        yield
        return
    silence_optuna()
    thread = threading.Thread(
        target=_draw_from_model, args=(make_sampler(search, space, 0),), name="rehearsal"
    )
    thread.start()
    try:
        yield
    finally:
        thread.join()  # a process that ends in the middle of an import may crash


def _draw_from_model(sampler: optuna.samplers.BaseSampler) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    line: dict[str, BaseDistribution] = {"x": optuna.distributions.FloatDistribution(0.0, 1.0)}
    for _ in range(STARTUP_TRIALS):
        trial = study.ask(line)
        study.tell(trial, trial.params["x"])
    study.sampler = sampler
    study.ask(line)


def silence_optuna() -> None:
    """Turn off Optuna's log messages below errors."""
    optuna.logging.set_verbosity(
        optuna.logging.ERROR
    )  # what it warns of, it mends itself; the table is on the terminal


def random_sampler(search: SearchConfig, number: int, attempt: int) -> optuna.samplers.BaseSampler:
    """Returns what draws a trial anew where the config has refused the point that its sampler drew."""
    return optuna.samplers.RandomSampler(seed=_seed(search.seed, number, attempt))


def _seed(*numbers: int) -> int:
    """Returns one number of 32 bits, which is what Optuna's generators take, out of several."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
