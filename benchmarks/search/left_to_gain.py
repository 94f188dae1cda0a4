"""When `search.stop_when.regret` would end a search, and what the rest of the search still gained.

    python -m benchmarks.search.left_to_gain --lcbench DIR

Each search runs to the end of its budget on the virtual clock. What `expected_gain` says after each
trial is compared with what the search gained from then on: the truth of the config that it
announces at the end, minus that of the config that it announced then. A rule is worth something if
it loses less than a smaller budget for every search that saves as much.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.search.clock import Step, VirtualSearch
from benchmarks.search.methods.method import Decision, End, Job
from benchmarks.search.methods.registry import PAUSING
from benchmarks.search.methods.segtune_method import SegtuneMethod
from benchmarks.search.runs import make_task
from benchmarks.search.tasks import Task
from benchmarks.timing import Row, show_table
from segtune.runs.results import miou_by_epoch
from segtune.tuning.expected_gain import expected_gain, expected_mious
from segtune.tuning.samplers import silence_optuna
from segtune.tuning.warm_start import KnownTrial

LIMITS = (0.003, 0.01, 0.02, 0.03)
TASKS = ("167201", "189908", "126029", "168910")  # those of the table of the methods
WORKERS = 8


@dataclass(frozen=True)
class Look:
    """What a search expects to gain after some epochs."""

    epochs: int  # of all workers
    gain: float  # in the score of the task, 0..1


@dataclass(frozen=True)
class Watched:
    """A search with what it announced and what it expected."""

    steps: Sequence[Step]
    looks: Sequence[Look]
    budget: int  # epochs

    def lost(self, epochs: int) -> float:
        """Return what the search gained after so many epochs."""
        return self.steps[-1].truth - [s.truth for s in self.steps if s.epochs <= epochs][-1]

    def end(self, limit: float) -> int | None:
        """Return the epochs at which the limit ends the search; None if it never does."""
        return next((look.epochs for look in self.looks if look.gain < limit), None)


class WatchedMethod(SegtuneMethod):
    """A search of segtune that notes what it expects to gain whenever a trial ends or is paused.

    With the sampler curves, trials are paused, as by default; with the others, they are stopped.
    """

    def __init__(self, task: Task, seed: int, sampler: str) -> None:
        asha = PAUSING["pausing"] if sampler == "curves" else {}
        super().__init__(task, seed, {"sampler": sampler, "asha": asha})
        self.known: dict[int, KnownTrial] = {}
        self.gains: list[float] = []  # at the looks since the last note

    def next_job(self) -> Job:
        job = super().next_job()
        self.known.pop(job.number, None)  # it was paused, and runs again
        return job

    def report(self, number: int, epoch: int, score: float) -> Decision:
        decision = super().report(number, epoch, score)
        if decision == Decision.PAUSE:
            self._look(number, "paused")
        return decision

    def end(self, number: int, state: End) -> None:
        super().end(number, state)
        self._look(number, state)

    def _look(self, number: int, state: str) -> None:
        mious = miou_by_epoch(self.run.trial(number).read_epochs())
        self.known[number] = KnownTrial.of({}, state, mious)
        scores = expected_mious(dict(sorted(self.known.items())))
        gain = expected_gain(list(scores.values()))
        self.gains += [] if gain is None else [gain]


class WatchedSearch(VirtualSearch):
    """A search on the virtual clock that notes after which epochs its method has looked."""

    method: WatchedMethod

    def watch(self, budget: int) -> Watched:
        """Search until `budget` epochs are spent."""
        self.looks: list[Look] = []
        outcome = self.run(budget)
        return Watched(outcome.steps, self.looks, budget)

    def _note(self) -> None:
        super()._note()
        self.looks += [Look(self.spent, gain) for gain in self.method.gains]
        self.method.gains.clear()


def watch(task: Task, sampler: str, seed: int, trainings: int) -> Watched:
    """Run a search to the end of its budget, in full training runs."""
    method = WatchedMethod(task, seed, sampler)
    try:
        return WatchedSearch(task, method, seed, WORKERS).watch(trainings * task.epochs)
    finally:
        method.close()


def rows_of(searches: Sequence[Watched], sampler: str) -> list[Row]:
    """Return one row for each limit."""
    rows: list[Row] = []
    for limit in LIMITS:
        ends = [search.end(limit) or search.budget for search in searches]
        lost = [search.lost(end) for search, end in zip(searches, ends, strict=True)]
        kept = statistics.mean(e / s.budget for s, e in zip(searches, ends, strict=True))
        of_all = statistics.mean(search.lost(round(kept * search.budget)) for search in searches)
        num_ended = sum(search.end(limit) is not None for search in searches)
        row: Row = {
            "sampler": sampler,
            "regret": limit,
            "ended": f"{num_ended} of {len(searches)}",
            "budget saved, mean": f"{1 - kept:.0%}",
            "lost, mean": f"{statistics.mean(lost):.4f}",
            "by a smaller budget for all": f"{of_all:.4f}",
            "lost, most": f"{max(lost):.4f}",
            "lost more than the limit": sum(loss > limit for loss in lost),
        }
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lcbench", type=Path, required=True, help="see lcbench.py")
    parser.add_argument("--tasks", nargs="+", default=TASKS, metavar="NUMBER")
    parser.add_argument("--samplers", nargs="+", default=["curves", "gp", "tpe", "random"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trainings", type=int, default=20, help="budget in full training runs")
    parser.add_argument("--out", type=Path, help="write the table as JSON")
    arguments = parser.parse_args()
    silence_optuna()
    tasks = [make_task(f"lcbench-{number}", arguments.lcbench) for number in arguments.tasks]
    rows: list[Row] = []
    for sampler in arguments.samplers:
        searches = [
            watch(task, sampler, seed, arguments.trainings)
            for task in tasks
            for seed in range(arguments.seeds)
        ]
        rows += rows_of(searches, sampler)
    show_table("when a search would end, and what it would lose", rows, arguments.out)


if __name__ == "__main__":
    main()
