"""Trials of two or more workers: one of Ray Train's worker groups per trial process, which stays for the trials that come after.

A group that Ray Train starts under Tune by itself takes eight processes: the trial, a queue, a controller, a cleaner, a manager of
Ray Data's data sets, the ranks' meeting point, and two ranks. Each takes a second of a core to start, and those that train take six:
17 s a trial, and all of it again for the next one. Here the controller is a thread of the trial's process, which makes the queue
needless; what nobody uses is left out; and ranks that have ended a trial wait for the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ray.exceptions
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import ReportCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2.api.result import Result

from segtune.cluster.placement import Placement
from segtune.cluster.worker import READY, Row, Task, cancel, serve_tasks, submit, task_name

# For how long the ranks of a stopped trial may take to come to their next step, before others are started in their place.
PATIENCE_S = 60.0

# One for each process, as Ray Train has one context for each: Tune calls a function for a trial, and keeps nothing in between.
_group: Group | None = None


def train_in_group(
    task: Task, tell: Callable[[Row], None], storage: Path, placement: Placement
) -> None:
    """Trains a task (see `trial.make_task`) on the worker group of this process, and starts it where there is none.

    `tell` gets the numbers of each validated epoch. Where it raises SystemExit, as Tune ends a trial, the ranks leave the task at
    their next step and stay; any other error ends them. Raises Ray Train's errors, which hold what the ranks have raised.
    """
    global _group
    group, _group = _group, None  # whatever happens, a group that has failed is not found again
    if group and not group.wait_until_idle():
        group.end()
        group = None
    group = group or Group(storage, placement)
    try:
        for row in group.rows(task):
            tell(row)
    except Exception:
        group.end()
        raise
    except SystemExit:
        group.cancel()
        _group = group
        raise
    _group = group


class RestartedError(ray.exceptions.RayError):
    """Ray has started the ranks again in the middle of a task; they know nothing of it."""


class Group:
    """Ranks that train one task after another, each of them at the same one."""

    def __init__(self, storage: Path, placement: Placement) -> None:
        """Starts the ranks; they say when they are ready."""
        self.task = ""  # the name of the one that they have not ended
        self.ready = False
        self.told: queue.SimpleQueue[Row | str | BaseException] = queue.SimpleQueue()
        self.trainer = _GroupTrainer(
            serve_tasks, **trainer_options({}, f"group-{uuid.uuid4().hex[:8]}", storage, placement)
        )
        self.trainer.told = self.told
        self.thread = threading.Thread(target=self._run, daemon=True, name="worker-group")
        self.thread.start()

    def _run(self) -> None:
        try:
            self.trainer.fit()
            raise RuntimeError("the worker group has ended")
        except BaseException as error:  # whatever it is, the trial's thread has to hear of it
            self.told.put(error)

    def rows(self, task: Task) -> Iterator[Row]:
        """Hands the ranks a task and yields what they tell of it, until they have ended it; raises what has ended them."""
        self.task = task_name(task)
        if self.ready:
            self._send(submit, task)
        while (said := self.told.get()) != self.task:
            if isinstance(said, BaseException):
                raise said
            if isinstance(said, dict):
                yield said
            elif said == READY and self.ready:
                raise RestartedError("the ranks were started again")
            elif said == READY:
                self.ready = True
                self._send(submit, task)
        self.task = ""

    def cancel(self) -> None:
        """Has the ranks leave their task at the next step."""
        self._send(cancel, self.task)

    def wait_until_idle(self) -> bool:
        """Waits until the ranks have left a task that they were called back from; returns whether they have, and live."""
        deadline = time.monotonic() + PATIENCE_S
        self.task = self.task if self.ready else ""  # not handed out yet
        while True:
            try:
                said = self.told.get(
                    timeout=max(0.0, deadline - time.monotonic()) if self.task else 0.0
                )
            except queue.Empty:
                return not self.task
            if isinstance(said, BaseException):
                return False
            if said in (self.task, READY):
                self.task, self.ready = "", True

    def end(self) -> None:
        """Kills the ranks, and waits until Ray Train has noticed."""
        # The actors themselves: a group that is aborted behind its controller's back leaves that in a loop for ever.
        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            for worker in self._ranks().get_workers():
                ray.kill(worker.actor)
        self.thread.join(PATIENCE_S)

    def _send(self, what: Callable[..., None], *given: Any) -> None:
        # A rank that is dead cannot be told; its death is on its way here.
        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            self._ranks().execute_async(what, *given)

    def _ranks(self) -> WorkerGroup:
        controller = self.trainer.controller
        ranks = controller.get_worker_group() if controller else None
        if ranks is None:
            raise ValueError("no worker group")  # as one says itself that is about to end
        return ranks


class _Tell(ReportCallback):
    """Passes on what the ranks report: rows, that they are ready, and the names of tasks that they have ended. All report the same."""

    def __init__(self, told: queue.SimpleQueue) -> None:
        self.told = told

    def after_report(self, training_report: Any, metrics: list[dict[str, Any]]) -> None:
        """Hears of a report that all ranks have made."""
        self.told.put(metrics[0].get("says") or metrics[0])


class _Placed(FixedScalingPolicy):
    """Asks Ray's AutoscalingCoordinator for no room, and so starts none, which takes a process: the search has counted what fits."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Registers nothing with the coordinator."""

    def _maybe_send_resource_request(self) -> None:
        pass


class _GroupTrainer(TorchTrainer):
    """Ray Train's trainer with its controller in the thread that calls `fit`."""

    controller: TrainController | None = None
    told: queue.SimpleQueue

    def _initialize_and_run_controller(self, **given: Any) -> Result:
        # The cleaner does what `ray_connection.release_orphans` does; data sets are ours, not Ray Data's.
        needless = (PlacementGroupCleanerCallback, DatasetsCallback)
        given["callbacks"] = [
            callback for callback in given["callbacks"] if not isinstance(callback, needless)
        ]
        given["callbacks"].append(_Tell(self.told))
        given["scaling_policy"] = _Placed(self.scaling_config)
        self.controller = TrainController(**given)
        asyncio.run(self.controller.run())
        return self.controller.get_result()


def trainer_options(task: Task, name: str, storage: Path, placement: Placement) -> dict[str, Any]:
    """Returns what a TorchTrainer takes besides the function."""
    resources = {"CPU": placement.cpus} | ({"GPU": placement.gpus} if placement.gpus else {})
    # A death that would repeat is a verdict, so what is raised is a fault; the search decides about trying again, and from where.
    failures = FailureConfig(max_failures=0, max_preemption_failures=0, controller_failure_limit=3)
    return {
        "train_loop_config": task,
        "torch_config": TorchConfig(timeout_s=300),
        "scaling_config": ScalingConfig(
            num_workers=placement.workers,
            use_gpu=placement.gpus > 0,
            resources_per_worker=resources,
        ),
        "run_config": RunConfig(name=name, storage_path=str(storage), failure_config=failures),
    }
