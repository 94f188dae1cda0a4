"""Measures what a config costs before a search, without Ray: steps in as many processes as trials.

The first steps of a search's own workers are measured elsewhere; this is for `--dry-run`.
"""

from __future__ import annotations

import logging
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from segtune.checks.step_costs import StepCosts
from segtune.config.schema import ExperimentConfig
from segtune.errors import SegtuneError

log = logging.getLogger(__name__)

# Processes that measure at the same time. More of them would take longer to start than they tell.
MAX_PROCESSES = 8
NUM_STEPS = 8


def measured_costs(config: ExperimentConfig, *, num_processes: int, cpus: float) -> list[StepCosts]:
    """Take real steps of a config in processes that run at the same time, as its trials would.

    `cpus` is the share of the cores of each. Empty if the steps cannot be taken here: the reason is
    logged, and a search on workers that have the data set may run.
    """
    number = min(num_processes, MAX_PROCESSES)
    spawn = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(number, spawn, _start, (spawn.Barrier(number),)) as pool:
            costs = [pool.submit(_measure, config, cpus) for _ in range(number)]
            return [future.result() for future in costs]
    except (SegtuneError, OSError, RuntimeError, BrokenProcessPool) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        log.warning("the forecast has no times: steps cannot be measured here (%s)", reason)
        return []


def _start(barrier: multiprocessing.synchronize.Barrier) -> None:
    """Wait in each process until all of them have imported what they need."""
    import segtune.training.step_costs  # noqa: F401

    barrier.wait()


def _measure(config: ExperimentConfig, cpus: float) -> StepCosts:
    """Take the steps, with the threads and loaders of a rank of a trial."""
    import torch

    from segtune.data.loader import num_loaders
    from segtune.training.memory import keep_freed_memory
    from segtune.training.step_costs import measure

    keep_freed_memory()
    torch.set_num_threads(max(1, int(cpus)))
    config = config.override({"data.num_loaders": num_loaders(config, cpus)})
    return StepCosts.parse({**measure(config, "the config itself", {}, NUM_STEPS)})
