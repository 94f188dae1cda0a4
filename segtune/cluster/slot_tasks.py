"""Takes steps of the config itself in all slots of a search at once, before its first trial.

Trials that run at the same time slow each other down. A forecast from steps that were taken alone
would be too short by that much.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import ray
from ray.exceptions import RayError

from segtune.checks.corners import Corner
from segtune.checks.dry_run_costs import MAX_PROCESSES, config_itself
from segtune.checks.step_costs import StepCosts
from segtune.cluster.placement import Placement
from segtune.tuning.study import Study

log = logging.getLogger(__name__)

# How long a slot waits for the others, whose processes have to start.
WAIT_S = 30.0
# How long the steps of all slots may take, their waiting included.
TIMEOUT_S = WAIT_S + 60


class _Meeting:
    """An actor at which the slots wait for each other."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.arrived = 0

    async def wait(self) -> None:
        """Return when all slots have arrived, or after WAIT_S."""
        self.arrived += 1
        deadline = time.monotonic() + WAIT_S
        while self.arrived < self.number and time.monotonic() < deadline:
            await asyncio.sleep(0.01)


def costs_in_all_slots(study: Study, placement: Placement) -> list[StepCosts]:
    """Return what the config itself costs on each worker while the workers of all slots take steps.

    Empty if there is a single worker, if a process has died, or if the steps take longer than
    TIMEOUT_S. Ray has to be running.
    """
    number = min(placement.concurrent * placement.workers, MAX_PROCESSES)
    if number == 1:
        return []
    study, itself = config_itself(study)
    meeting: Any = ray.remote(_Meeting).options(num_cpus=0).remote(number)
    resources: dict[str, Any] = {"num_cpus": placement.cpus, "num_gpus": placement.gpus}
    # Ray itself would repeat a task whose process has died.
    task = ray.remote(_measure_in_slot).options(max_retries=0, **resources)
    try:
        started = [task.remote(study, itself, placement.cpus, meeting) for _ in range(number)]
        _, late = ray.wait(started, num_returns=number, timeout=TIMEOUT_S)
        for reference in late:
            ray.cancel(reference, force=True)
        if late:
            log.info("the config was not measured in all slots within %.0f s", TIMEOUT_S)
            return []
        return ray.get(started)
    except RayError as error:
        log.info("the config was not measured in all slots: %s", type(error).__name__)
        return []
    finally:
        ray.kill(meeting)


def _measure_in_slot(study: Study, itself: Corner, cpus: float, meeting: Any) -> StepCosts:
    """Wait at `meeting`, the actor, and take the steps."""
    from segtune.checks.measured_steps import measure_as_rank

    ray.get(meeting.wait.remote())
    return measure_as_rank(study, itself, cpus)
