"""What a search wins by `--warm-start` with earlier searches on other data.

    python -m benchmarks.search.warm_start --lcbench DIR

Each search is run cold, and again with the best points of `--earlier` searches on other data sets
of LCBench, which it tries first: as many of each as segtune takes from a run whose scores cannot be
compared (segtune/tuning/warm_start.py). All are the default, with eight workers.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search.clock import Step, VirtualSearch
from benchmarks.search.lcbench import data_sets
from benchmarks.search.methods.registry import PAUSING
from benchmarks.search.methods.segtune_method import SegtuneMethod
from benchmarks.search.runs import make_task
from benchmarks.search.tasks import Task, seed_of
from benchmarks.timing import Row, show_table
from segtune.runs.results import ranked, read_trials
from segtune.tuning.samplers import silence_optuna
from segtune.tuning.warm_start import POINTS_OF_OTHERS

TASKS = ("167201", "189908", "126029", "168910", "167184", "168868")
SHARES = {"1/20": 0.05, "1/10": 0.1, "1/4": 0.25, "1/2": 0.5, "end": 1.0}
WORKERS = 8
EARLIER_SEED = 1000  # of the earlier searches
DEFAULT = {"sampler": "curves", "asha": PAUSING["pausing"]}


class Searches:
    """Searches on the data sets of LCBench, with a budget in full training runs."""

    def __init__(self, folder: Path, trainings: int) -> None:
        self.trainings = trainings
        self.task = functools.cache(lambda number: make_task(f"lcbench-{number}", folder))
        self.best_points = functools.cache(self._best_points)

    def regrets(
        self, number: str, seed: int, points: Sequence[dict[str, Any]] = ()
    ) -> dict[str, float]:
        """Return the regret after shares of the budget, if `points` are tried first."""
        task = self.task(number)
        method = SegtuneMethod(task, seed, DEFAULT)
        method.searcher.points += points
        try:
            steps = self._run(task, method, seed)
        finally:
            method.close()
        budget = self.trainings * task.epochs
        return {name: _regret(task, steps, share * budget) for name, share in SHARES.items()}

    def _best_points(self, number: str) -> list[dict[str, Any]]:
        task = self.task(number)
        method = SegtuneMethod(task, EARLIER_SEED, DEFAULT)
        try:
            self._run(task, method, EARLIER_SEED)
            best = ranked(read_trials(method.run))[:POINTS_OF_OTHERS]
            return [trial.params for trial in best]
        finally:
            method.close()

    def _run(self, task: Task, method: SegtuneMethod, seed: int) -> Sequence[Step]:
        return VirtualSearch(task, method, seed, WORKERS).run(self.trainings * task.epochs).steps


def _regret(task: Task, steps: Sequence[Step], epochs: float) -> float:
    truths = [step.truth for step in steps if step.epochs <= epochs]
    return task.regret(truths[-1] if truths else task.truth(task.config_itself()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lcbench", type=Path, required=True, help="see lcbench.py")
    parser.add_argument("--tasks", nargs="+", default=TASKS, metavar="NUMBER")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--earlier", type=int, default=3, help="earlier searches of each search")
    parser.add_argument("--trainings", type=int, default=10, help="budget in full training runs")
    parser.add_argument("--out", type=Path, help="write the table as JSON")
    arguments = parser.parse_args()
    silence_optuna()
    searches = Searches(arguments.lcbench, arguments.trainings)
    found: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    for number in arguments.tasks:
        others = [other for other in data_sets(arguments.lcbench) if other != number]
        for seed in range(arguments.seeds):
            random = np.random.default_rng(seed_of(number, "earlier", seed))
            earlier = random.choice(others, arguments.earlier, replace=False).tolist()
            points = [point for other in earlier for point in searches.best_points(other)]
            found["cold"].append(searches.regrets(number, seed))
            found["warm"].append(searches.regrets(number, seed, points))
    rows: list[Row] = []
    for name, regrets in found.items():
        means = {share: f"{statistics.mean(r[share] for r in regrets):.2f}" for share in SHARES}
        rows.append({"search": name, **means})
    show_table("mean regret after a share of the budget", rows, arguments.out)


if __name__ == "__main__":
    main()
