"""Optuna's samplers by name. Each trial gets a sampler of its own, seeded by the trial's number."""

from __future__ import annotations

import math
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from segtune.tuning.curves.sampler import CurveSampler
from segtune.tuning.search_config import SearchConfig
from segtune.tuning.space import Space

# How many trials TPE, CMA-ES and the Gaussian process draw at random before they fit a model
# (Bergstra et al. 2011; Optuna's default). It is also the size of a population of NSGA-II, whose
# first one is drawn at random. On ZDT1 with 5 numbers and 100 trials, the median hypervolume of 8
# seeds was 10.3 with 10, 9.96 with 20 and 9.86 with Optuna's 50, which is that of random search.
STARTUP_TRIALS = 10
# Fraction of the first trials that is drawn from the priors of the space, if it has any.
PRIOR_SHARE = 0.5


class SpaceTPE(optuna.samplers.TPESampler):
    """Multivariate TPE that knows from the space which settings every trial has.

    Optuna's own multivariate TPE compares all trials at every draw to find them.
    """

    def __init__(self, space: Space, **options: Any) -> None:
        super().__init__(multivariate=True, **options)
        unconditional = [d for d in space.dimensions if not d.when and not d.is_fixed]
        self.joint_space = {
            dimension.name: dimension.distribution()
            for dimension in sorted(unconditional, key=lambda d: d.name)
        }

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the settings that are drawn from one joint density."""
        return self.joint_space


class OrderedNSGAII(optuna.samplers.NSGAIISampler):
    """NSGA-II whose parents are always in the order of their numbers.

    Optuna's own has them in another order at the first draw of a generation than at the later ones.
    A resumed search would draw other trials.
    """

    def select_parent(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        """Return the trials from which a generation is drawn."""
        return sorted(super().select_parent(study, generation), key=lambda trial: trial.number)


class PriorSampler(optuna.samplers.BaseSampler):
    """Draws each setting from its prior, and a setting without one uniformly."""

    def __init__(self, space: Space, seed: int, population: OrderedNSGAII | None = None) -> None:
        """`population` is the sampler that counts the trial as one of its generation."""
        self.dimensions = {dimension.name: dimension for dimension in space.dimensions}
        self.random = np.random.default_rng(seed)
        self.population = population

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return no setting: each is drawn by itself."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw nothing; number the trial's generation."""
        if self.population:
            self.population.get_trial_generation(study, trial)
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return a value of one setting."""
        return self.dimensions[param_name].quantile(self.random.random())


def is_drawn_from_priors(search: SearchConfig, space: Space, number: int) -> bool:
    """Whether trial `number` is drawn from the priors of the space instead of by the sampler.

    Of the first n trials these are n/2 up to STARTUP_TRIALS (S), and S/2 * (1 + log(n / S)) after
    that: trial n is drawn from the priors with a share of S / 2n. So a prior that is wrong costs
    half of the first trials, 28 % of 50, 17 % of 100 and 3 % of 1,000. The sampler `random` learns
    nothing that could replace the priors: half of its trials are drawn from them.

    Ours, after PriorBand (Mallik et al. 2023), which mixes uniform draws, draws from the prior and
    draws near the best trial. Depends on the number only, so a resumed search draws the same.
    """
    if number == 0 or not space.has_priors or search.sampler == "grid":
        return False

    def num_from_priors(num_trials: int) -> float:
        if search.sampler == "random" or num_trials <= STARTUP_TRIALS:
            return PRIOR_SHARE * num_trials
        return PRIOR_SHARE * STARTUP_TRIALS * (1 + math.log(num_trials / STARTUP_TRIALS))

    return math.ceil(num_from_priors(number)) > math.ceil(num_from_priors(number - 1))


def make_sampler(
    search: SearchConfig, space: Space, number: int, epochs: Sequence[int] = ()
) -> optuna.samplers.BaseSampler:
    """Return the sampler that draws trial `number`; `epochs` are those at which curves are read.

    Its seed depends only on the study's seed and the trial's number. Therefore a resumed search
    draws the same trials as one that was never interrupted.
    """
    seed = combined_seed(search.seed, number)
    if is_drawn_from_priors(search, space, number):
        population = _nsga2(seed) if search.sampler == "nsga2" else None
        return PriorSampler(space, seed, population)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match search.chosen_sampler:
            case "curves":
                return CurveSampler(space, epochs, seed, STARTUP_TRIALS)
            case "tpe":
                return _tpe(search, space, seed)
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
            case "nsga2":
                return _nsga2(seed)
            case (
                "random" | "grid"
            ):  # Study.points lists the points of a grid; no sampler draws them
                return optuna.samplers.RandomSampler(seed=seed)


def _nsga2(seed: int) -> OrderedNSGAII:
    return OrderedNSGAII(population_size=STARTUP_TRIALS, seed=seed)


def _tpe(search: SearchConfig, space: Space, seed: int) -> optuna.samplers.TPESampler:
    options: dict[str, Any] = {
        "seed": seed,
        "n_startup_trials": STARTUP_TRIALS,
        "constant_liar": search.constant_liar,
    }
    if search.multivariate:
        return SpaceTPE(space, **options)
    return optuna.samplers.TPESampler(multivariate=False, **options)


def random_sampler(search: SearchConfig, number: int, attempt: int) -> optuna.samplers.BaseSampler:
    """Return the sampler that draws trial `number` again if the config refuses its first point."""
    return optuna.samplers.RandomSampler(seed=combined_seed(search.seed, number, attempt))


def combined_seed(*numbers: int) -> int:
    """Return a seed of 32 bits, as Optuna's generators take it, that depends on all `numbers`."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


@contextmanager
def sampler_warmed_up(search: SearchConfig, space: Space) -> Iterator[None]:
    """Warm up the sampler in a thread while the body of the `with` block runs.

    The first draw of the Gaussian process imports torch, which takes seconds. In the middle of a
    search the workers would wait for it. While Ray starts, the processor is idle anyway.
    """
    if search.chosen_sampler != "gp" or search.trials <= STARTUP_TRIALS:
        yield
        return
    silence_optuna()
    sampler = make_sampler(search, space, 0)
    thread = threading.Thread(target=_draw_from_model, args=(sampler,), name="sampler-warm-up")
    thread.start()
    try:
        yield
    finally:
        thread.join()  # a process that ends in the middle of an import may crash


def _draw_from_model(sampler: optuna.samplers.BaseSampler) -> None:
    """Draw a point that no trial uses, after enough finished trials for the model to be fitted."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    distributions: dict[str, BaseDistribution] = {
        "x": optuna.distributions.FloatDistribution(0.0, 1.0)
    }
    for _ in range(STARTUP_TRIALS):
        trial = study.ask(distributions)
        study.tell(trial, trial.params["x"])
    study.sampler = sampler
    study.ask(distributions)


def silence_optuna() -> None:
    """Turn off Optuna's log messages below errors, and its warning of choices that are lists.

    Its warnings concern what it corrects itself, and they would break the table on the terminal.
    Lists are plain JSON, so every storage returns them as they were.
    """
    warnings.filterwarnings("ignore", message="Choices for a categorical distribution should be")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
