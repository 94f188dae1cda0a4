"""Takes the corner steps of a study in processes of this machine, without Ray, for `--dry-run`.

As many processes measure at the same time as a search here would run trials, because trials slow
each other down.
"""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.synchronize
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial

from segtune.checks.corners import Corner, corners_of
from segtune.checks.step_costs import StepCosts
from segtune.tuning.study import Study

log = logging.getLogger(__name__)

# Starting more processes takes longer than the extra accuracy is worth.
MAX_PROCESSES = 8
# Steps of the config itself. They decide what a forecast is worth, so there are more of them than
# at a corner.
NUM_STEPS = 8


def measured_costs(study: Study, *, num_processes: int, cpus: float) -> list[StepCosts]:
    """Take real steps of the config itself in all processes at once, then those of the corners.

    `cpus` is the share of the cores of each process. Steps that cannot be taken here are logged: a
    search on workers that have the data set may still run.
    """
    repeated, itself = config_itself(study)
    others = corners_of(study).chosen[1:]
    number = min(num_processes, MAX_PROCESSES)
    spawn = multiprocessing.get_context("spawn")
    measure, measure_itself = partial(_measure, study, cpus), partial(_measure, repeated, cpus)
    try:
        with ProcessPoolExecutor(number, spawn, _start, (spawn.Barrier(number),)) as pool:
            costs = [*pool.map(measure_itself, [itself] * number), *pool.map(measure, others)]
    except BrokenProcessPool:
        log.warning("the forecast has no times: a process that took steps has died")
        return []
    for problem in problems_of(costs):
        log.warning("%s", problem)
    return costs


def num_gpus_here() -> int:
    """Return how many GPUs this machine has."""
    import torch

    return torch.cuda.device_count()


def config_itself(study: Study) -> tuple[Study, Corner]:
    """Return the corner that is the config itself, and the study with more steps for it."""
    num_steps = max(NUM_STEPS, study.search.corner_steps)
    search = study.search.override({"corner_steps": num_steps})
    return replace(study, search=search), corners_of(study).chosen[0]


def problems_of(costs: Sequence[StepCosts]) -> Iterator[str]:
    """Yield a message for each config whose steps failed or could not be taken, once."""
    ended = {cost.name: (cost, cost.verdict) for cost in costs if cost.verdict}
    for name, (cost, verdict) in ended.items():
        if cost.step_s is None:
            yield f"the forecast leaves out {name}: {verdict.reason}"
        else:
            yield (
                f"these steps failed: {name}: {verdict.reason}; segtune check STUDY shows the "
                "way out"
            )


def _start(barrier: multiprocessing.synchronize.Barrier) -> None:
    """Wait in each process until all of them have imported what they need."""
    import segtune.checks.measured_steps  # noqa: F401

    barrier.wait()


def _measure(study: Study, cpus: float, corner: Corner) -> StepCosts:
    from segtune.checks.measured_steps import measure_as_rank

    return measure_as_rank(study, corner, cpus)
