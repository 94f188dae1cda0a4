"""Runs searches of the benchmark in several processes."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.places import DATA, ROOT
from benchmarks.search.clock import VirtualSearch
from benchmarks.search.lcbench import LCBenchTask, data_sets
from benchmarks.search.methods.registry import make_method
from benchmarks.search.recorded import RecordedTask
from benchmarks.search.tasks import Task
from segtune.errors import SegtuneError
from segtune.tuning.samplers import silence_optuna
from segtune.tuning.study_reader import load_study

# Files of DATA, with the study that was recorded and the epoch of the first rung.
RECORDED = {"shapes": ("configs/loss_weights.yaml", 4)}
LCBENCH = "lcbench-"
# With fewer recorded configs, a search would soon have tried them all.
MIN_CONFIGS = 100


@dataclass(frozen=True)
class Plan:
    """A search that is to be run."""

    task: str
    method: str
    seed: int
    workers: int
    trainings: int  # the budget, in training runs of full length


def check_task(name: str, lcbench: Path | None) -> None:
    """Raise SegtuneError if there is no such task."""
    if name.startswith(LCBENCH):
        numbers = data_sets(lcbench) if lcbench else []
        if name.removeprefix(LCBENCH) not in numbers:
            allowed = ", ".join(numbers) or "none without --lcbench DIR"
            raise SegtuneError(f"--tasks: no data set {name!r}; allowed numbers: {allowed}")
        return
    if name not in RECORDED:
        names = ", ".join([*RECORDED, f"{LCBENCH}NUMBER"])
        raise SegtuneError(f"--tasks: no task {name!r}; the tasks are {names}")
    if _num_configs(name) < MIN_CONFIGS:
        raise SegtuneError(
            f"--tasks: of {name}, {_num_configs(name)} configs are recorded; a task needs "
            f"{MIN_CONFIGS}: python -m benchmarks.record_curves --space {RECORDED[name][0]} "
            f"--epochs 40 --configs 200 --out benchmarks/data/{name}.jsonl"
        )


def make_task(name: str, lcbench: Path | None) -> Task:
    """Return a task by its name, see `check_task`."""
    if name.startswith(LCBENCH) and lcbench:
        return LCBenchTask(lcbench, name.removeprefix(LCBENCH))
    study_file, grace = RECORDED[name]
    return RecordedTask.read(DATA / f"{name}.jsonl", load_study(ROOT / study_file), grace)


def task_names(lcbench: Path | None) -> list[str]:
    """Return the names of all tasks that can be run."""
    recorded = [name for name in RECORDED if _num_configs(name) >= MIN_CONFIGS]
    numbers = data_sets(lcbench) if lcbench else []
    return [*recorded, *(LCBENCH + number for number in numbers)]


def _num_configs(name: str) -> int:
    """Return how many configs are recorded."""
    file = DATA / f"{name}.jsonl"
    if not file.exists():
        return 0
    return len({json.loads(line)["config"] for line in file.read_text().splitlines()})


# Of a process: the tasks that it has made, because reading them takes seconds.
_tasks: dict[str, Task] = {}


def run(plan: Plan, lcbench: Path | None) -> dict[str, Any]:
    """Run a search, and return its line of the results."""
    silence_optuna()
    if plan.task not in _tasks:
        _tasks[plan.task] = make_task(plan.task, lcbench)
    task = _tasks[plan.task]
    method = make_method(plan.method, task, plan.seed)
    try:
        search = VirtualSearch(task, method, plan.seed, plan.workers)
        outcome = search.run(plan.trainings * task.epochs)
    finally:
        method.close()
    itself = task.truth(task.config_itself())
    scores = {"best": task.best, "middle": task.middle, "itself": itself, "epochs": task.epochs}
    return {**asdict(plan), **outcome.to_row(), **scores}


def _run_one(job: tuple[Plan, Path | None]) -> dict[str, Any]:
    return run(*job)


def run_all(plans: Sequence[Plan], lcbench: Path | None, processes: int) -> Iterator[dict]:
    """Yield the line of each search as it ends."""
    jobs = [(plan, lcbench) for plan in plans]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(_run_one, jobs)


def finished(path: Path) -> set[Plan]:
    """Return the searches that a file of results holds."""
    if not path.exists():
        return set()
    rows = map(json.loads, path.read_text().splitlines())
    return {Plan(**{name: row[name] for name in Plan.__annotations__}) for row in rows}
