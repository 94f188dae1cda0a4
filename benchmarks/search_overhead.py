"""What a trial costs the driver: searcher and scheduler over 10,000 fake trials.

    python -m benchmarks.search_overhead --trials 10000

Trains nothing and starts no Ray, but writes every file of a search run.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from ray.tune.schedulers import TrialScheduler
from rich.console import Console
from rich.table import Table

from benchmarks.fake_trials import fake_record
from benchmarks.places import CONFIG, SPACE
from segtune.cluster.tune_scheduler import StoppingRuleScheduler
from segtune.cluster.tune_searcher import StudySearcher
from segtune.runs.rundir import SearchDir
from segtune.runs.verdict import Verdict
from segtune.tuning.chosen_rule import stopping_rule
from segtune.tuning.study_reader import load_study

EPOCHS = 9
KIB_PER_MIB = 1024

COLUMNS = (
    "trial",
    "suggest, ms",
    "results and end, ms",
    "both, ms",
    "p95, ms",
    "the trial's files, ms",
    "memory, MiB",
)


@dataclass
class TrialCost:
    """The seconds that one trial took."""

    suggest_s: float = 0.0  # the driver: drawing the trial
    results_s: float = 0.0  # the driver: receiving its results and its end
    files_s: float = 0.0  # the trial's process: writing its files


class Driver:
    """Makes the calls that Tune makes, for one trial after another, and times them."""

    def __init__(self, folder: Path, trials: int, sampler: str) -> None:
        limits = {"trials": trials, "sampler": sampler}
        study = load_study(SPACE, CONFIG, [f"schedule.epochs={EPOCHS}"], limits)
        self.run = SearchDir(folder / "run")
        self.searcher = StudySearcher.from_run(study, self.run)
        self.scheduler = StoppingRuleScheduler(stopping_rule(study))

    def run_trial(self, index: int) -> TrialCost:
        """Run one trial to its end, and return what it took."""
        cost = TrialCost()
        name = str(index)
        start = time.perf_counter()
        drawn = self.searcher.suggest(name)
        cost.suggest_s = time.perf_counter() - start
        trial = self.run.trial(drawn["number"])
        result: dict[str, Any] = {}
        for epoch in range(1, EPOCHS + 1):
            record = fake_record(drawn["params"], epoch, seconds=1.0)
            result = {"epoch": epoch, "miou": record.miou}
            start = time.perf_counter()
            trial.append_epoch(record)
            written = time.perf_counter()
            goes_on = self._report(name, drawn, result)
            cost.files_s += written - start
            cost.results_s += time.perf_counter() - written
            if not goes_on:
                break
        else:
            trial.write_verdict(Verdict(state="completed", epoch=EPOCHS))
        start = time.perf_counter()
        self.searcher.on_trial_complete(name, result)
        cost.results_s += time.perf_counter() - start
        return cost

    def _report(self, name: str, drawn: dict[str, Any], result: dict[str, Any]) -> bool:
        """Report a result to searcher and scheduler; return whether the trial goes on."""
        self.searcher.on_trial_result(name, result)
        trial: Any = SimpleNamespace(config=drawn)
        return self.scheduler.on_trial_result(None, trial, result) != TrialScheduler.STOP


def summarise(index: int, costs: Sequence[TrialCost]) -> list[str]:
    """Return the row of the table for the trials `costs`, the last of which is number `index`."""
    suggest, results, files = 1000 * np.array([astuple(cost) for cost in costs]).T
    both = suggest + results
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB_PER_MIB
    cells = [
        np.median(suggest),
        np.median(results),
        np.median(both),
        np.percentile(both, 95),
        np.median(files),
        memory,
    ]
    return [str(index), *(f"{cell:.1f}" for cell in cells)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--window", type=int, default=100, help="trials that a median is taken of")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    table = Table(*COLUMNS)
    costs: list[TrialCost] = []
    with tempfile.TemporaryDirectory() as folder:
        driver = Driver(Path(folder), arguments.trials, arguments.sampler)
        for index in range(1, arguments.trials + 1):
            costs.append(driver.run_trial(index - 1))
            if index in {arguments.window, 1000, 5000, arguments.trials}:
                row = summarise(index, costs[-arguments.window :])
                table.add_row(*row)
                print(f"{index}: {row[COLUMNS.index('both, ms')]} ms", flush=True)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
