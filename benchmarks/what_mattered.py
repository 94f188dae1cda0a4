"""How often the report names a setting that does not matter, and how often it finds one that does.

    python -m benchmarks.what_mattered
    python -m benchmarks.what_mattered --searches 20 --trials 60

Nothing is trained. Each search draws its trials with a sampler of segtune from five ranges and a
choice. The score is the true score plus noise, and a trial may end unhealthy. `named wrongly` are
searches in which at least one setting (or pair, or value) without an effect is shown. The tables in
docs/results.md are the output.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.timing import Row, show_table
from segtune.checks.confirmation import LEVEL
from segtune.checks.permutation import permutations
from segtune.checks.setting_effects import Design, pair_tests, setting_tests
from segtune.checks.unhealthy_settings import unhealthy_predictors
from segtune.checks.what_mattered import what_mattered
from segtune.config.schema import ExperimentConfig
from segtune.runs.results import TrialResult
from segtune.runs.verdict import Verdict
from segtune.tuning.optuna_study import OptunaStudyLog, new_study
from segtune.tuning.samplers import make_sampler, silence_optuna
from segtune.tuning.search_config import SearchConfig
from segtune.tuning.space import Dimension, Space
from segtune.tuning.study import Study
from segtune.tuning.trial_history import history_for

RANGES = [Dimension(f"x{i}", "uniform", (0.0, 1.0)) for i in range(5)]
CHOICE = Dimension("c", "choice", ("a", "b", "c"))
SPACE = Space((*RANGES, CHOICE), {**{d.name: 0.5 for d in RANGES}, "c": "a"})
NOISE = 0.01  # standard deviation of one training run, in mIoU of 0..1

Params = Mapping[str, Any]


@dataclass(frozen=True)
class World:
    """What is true of the settings."""

    name: str
    gain: Callable[[Params], float] = lambda params: 0.0  # in units of NOISE
    matters: tuple[str, ...] = ()
    pair: tuple[str, ...] = ()
    unhealthy_above: float = 1.0  # of x4: these trials end unhealthy


WORLDS = (
    World("nothing matters"),
    World("x0 matters", lambda p: -16 * (p["x0"] - 0.7) ** 2, ("x0",)),
    World("x0 and x1 matter alone", lambda p: 4 * p["x0"] + 4 * p["x1"], ("x0", "x1")),
    World(
        "x0 and x1 matter together only",
        lambda p: 4.0 * ((p["x0"] > 0.5) != (p["x1"] > 0.5)),
        ("x0", "x1"),
        ("x0", "x1"),
    ),
    World("x4 above 0.7 is unhealthy", unhealthy_above=0.7),
)


def search(world: World, sampler: str, num_trials: int, seed: int) -> list[TrialResult]:
    """Return the trials of a search."""
    config = SearchConfig.parse({"trials": num_trials, "sampler": sampler, "seed": seed})
    drawn_from = history_for(config, SPACE) or OptunaStudyLog(new_study(), SPACE)
    random = np.random.default_rng(seed)
    trials = []
    for number in range(num_trials):
        params = drawn_from.ask(number, make_sampler(config, SPACE, number))
        miou = 0.3 + NOISE * (world.gain(params) + random.standard_normal())
        is_unhealthy = params["x4"] > world.unhealthy_above
        state = "unhealthy" if is_unhealthy else "completed"
        kind = "diverged" if is_unhealthy else ""
        drawn_from.tell(number, Verdict(state=state, kind=kind, epoch=1), {1: miou})
        trials.append(TrialResult(number, state, kind, miou=miou, params=params))
    return trials


def row(world: World, sampler: str, num_trials: int, num_searches: int) -> Row:
    """Return how often the record of a search is wrong and right."""
    counts = dict.fromkeys(("setting", "all", "pair", "pair_found", "value", "value_found"), 0)
    for seed in range(num_searches):
        trials = search(world, sampler, num_trials, seed)
        healthy = [trial for trial in trials if trial.state == "completed"]
        design = Design(SPACE, [trial.params for trial in healthy])
        scores = [trial.miou or 0.0 for trial in healthy]
        orders = permutations(len(scores))
        shown = {name for name, p in setting_tests(design, scores, orders).items() if p < LEVEL}
        tested = pair_tests(design, scores, SPACE.names, orders)
        pairs = {tuple(sorted(item.names)) for item in tested if item.p < LEVEL}
        values = {item.name for item in unhealthy_predictors(SPACE, trials) if item.is_shown}
        counts["setting"] += bool(shown - set(world.matters))
        counts["all"] += shown >= set(world.matters)
        counts["pair"] += bool(pairs - {world.pair})
        counts["pair_found"] += world.pair in pairs
        counts["value"] += bool(values - {"x4"})
        counts["value_found"] += "x4" in values
    shares = {name: f"{100 * count / num_searches:.0f} %" for name, count in counts.items()}
    return {
        "what is true": world.name,
        "sampler": sampler,
        "trials": num_trials,
        "setting named wrongly": shares["setting"],
        "all found": shares["all"] if world.matters and not world.pair else "",
        "pair named wrongly": shares["pair"],
        "pair found": shares["pair_found"] if world.pair else "",
        "value named wrongly": shares["value"] if world.unhealthy_above < 1 else "",
        "value found": shares["value_found"] if world.unhealthy_above < 1 else "",
    }


def seconds(num_trials: int) -> float:
    """Return how long the record of a search takes."""
    study = Study(ExperimentConfig(), SPACE, SearchConfig.parse({"trials": num_trials}))
    trials = search(WORLDS[1], "random", num_trials, 0)
    start = time.perf_counter()
    what_mattered(study, trials, {})
    return time.perf_counter() - start  # with the importances of PED-ANOVA


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Simulate searches and what they say mattered.")
    parser.add_argument("--searches", type=int, default=100)
    parser.add_argument("--trials", type=int, nargs="+", default=[30, 60])
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe", "gp"])
    arguments = parser.parse_args(argv)
    silence_optuna()
    rows = [
        row(world, sampler, num_trials, arguments.searches)
        for num_trials in arguments.trials
        for sampler in arguments.samplers
        for world in WORLDS
    ]
    show_table("what mattered, in simulated searches", rows, None)
    print(f"1,000 trials take {seconds(1000):.1f} s")


if __name__ == "__main__":
    main()
