"""Trials of two or more workers: a worker group that serves one trial after another.

If Ray Train starts a worker group under Tune by itself, the group takes eight processes: the trial,
a queue, a controller, a cleaner, a manager of Ray Data's data sets, the meeting point of the ranks,
and two ranks. Each takes a second of a core to start, and those that train take six: 17 s for a
trial, and again for the next one. Here the controller is a thread of the trial's process, which
needs no queue; the processes that segtune has no use for are left out; and ranks that have finished
a trial wait for the next one.

If the version of Ray does not allow this (see `ray_internals`), a trial starts a worker group of
its own through the documented interface.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import ray.exceptions
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from segtune.cluster.messages import (
    Died,
    Finished,
    Message,
    Ready,
    Reported,
    TrialReport,
    TrialTask,
    message_of,
)
from segtune.cluster.placement import Placement
from segtune.cluster.ray_internals import WorkerGroupController
from segtune.cluster.worker import cancel, serve_tasks, submit, train_cancellable_worker

# How long the ranks of a cancelled trial may take to reach their next step. Then they are killed.
CANCEL_TIMEOUT_S = 60.0
# How long Ray Train may take to notice that its ranks were killed.
KILL_TIMEOUT_S = 60.0


class RestartedError(ray.exceptions.RayError):
    """Ray has started the ranks again in the middle of a task, which they know nothing about."""


class RankProcesses(Protocol):
    """The processes of a group, one for each rank."""

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Start a function in every process."""

    def kill(self) -> None:
        """Kill every process."""


class TrainGroup:
    """Ranks that train one task after another, all of them the same task.

    `messages` holds what the ranks have sent and nothing has read yet.
    """

    def __init__(self, messages: queue.SimpleQueue[Message], ranks: RankProcesses) -> None:
        self._messages = messages
        self._ranks = ranks
        self._started = False  # whether the ranks can take tasks
        self._task = ""  # name of the task that the ranks were given and have not finished

    @classmethod
    def start(cls, storage: Path, placement: Placement) -> TrainGroup:
        """Start the ranks of a group. They send Ready once they can take a task."""
        messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        return cls(messages, RayTrainRanks(storage, placement, messages))

    def train(self, task: TrialTask) -> Iterator[TrialReport]:
        """Give the ranks a task and yield their reports until they have finished it.

        Raise the error that has ended the ranks, or RestartedError. The group must be idle.
        """
        if self._started:
            self._submit(task)
        while True:
            match self._messages.get():
                case Ready() if self._started:
                    raise RestartedError("the ranks were started again")
                case Ready():
                    self._started = True
                    self._submit(task)
                case Reported(report):
                    yield report
                case Finished(name) if name == task.name:
                    self._task = ""
                    return
                case Died(error):
                    raise error

    def _submit(self, task: TrialTask) -> None:
        self._task = task.name
        self._ranks.call(submit, task)

    def cancel(self) -> None:
        """Ask the ranks to leave their task at the next step."""
        self._ranks.call(cancel, self._task)

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Wait until the ranks have left a cancelled task; return whether the group is usable.

        Discards what they still report of it. False means that the ranks are dead, or that they
        have not left the task in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            remaining_s = max(0.0, deadline - time.monotonic()) if self._task else 0.0
            try:
                message = self._messages.get(timeout=remaining_s)
            except queue.Empty:
                return not self._task
            match message:
                case Ready():
                    # Ranks that have just started hold no task, also if they are a replacement.
                    self._started = True
                    self._task = ""
                case Finished(name) if name == self._task:
                    self._task = ""
                case Died():
                    return False

    def kill(self) -> None:
        """Kill the ranks."""
        self._ranks.kill()


class RayTrainRanks:
    """The processes of a group as Ray Train starts them, and the thread of their controller."""

    def __init__(
        self, storage: Path, placement: Placement, messages: queue.SimpleQueue[Message]
    ) -> None:
        """Start the processes. What they send, and their end, is put into `messages`."""
        name = f"group-{uuid.uuid4().hex[:8]}"
        self._messages = messages
        self._controller = WorkerGroupController(
            serve_tasks, trainer_options(name, storage, placement), self._receive
        )
        self._thread = threading.Thread(target=self._run, daemon=True, name="worker-group")
        self._thread.start()

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Start a function in the process of every rank."""
        self._controller.call(function, *arguments)

    def kill(self) -> None:
        """Kill the process of every rank, and wait until Ray Train has noticed."""
        self._controller.kill()
        self._thread.join(KILL_TIMEOUT_S)

    def _receive(self, metrics: dict[str, Any]) -> None:
        self._messages.put(message_of(metrics))

    def _run(self) -> None:
        try:
            self._controller.run()
            raise RuntimeError("the worker group has ended")
        except BaseException as error:  # whatever it is, the trial's thread must know
            self._messages.put(Died(error))


class GroupKeeper:
    """Keeps the group of this process between trials.

    Tune calls a function for each trial and keeps nothing between the calls.
    """

    def __init__(self, cancel_timeout_s: float = CANCEL_TIMEOUT_S) -> None:
        self._cancel_timeout_s = cancel_timeout_s
        self._group: TrainGroup | None = None

    def train(
        self,
        task: TrialTask,
        report: Callable[[TrialReport], None],
        storage: Path,
        placement: Placement,
    ) -> None:
        """Train a task on the group that was kept, or on a new one, and call `report` per epoch.

        If `report` raises SystemExit, as Tune's does to stop a trial, the ranks leave the task at
        their next step and are kept. Any other error ends them. Raise the errors of Ray Train,
        which hold what the ranks have raised.
        """
        group = self._take() or TrainGroup.start(storage, placement)
        try:
            for trial_report in group.train(task):
                report(trial_report)
        except Exception:
            group.kill()
            raise
        except SystemExit:
            group.cancel()
            self._group = group
            raise
        self._group = group

    def _take(self) -> TrainGroup | None:
        """Return the group that was kept, if it is usable, and keep it no longer."""
        group, self._group = self._group, None
        if group and not group.wait_until_idle(self._cancel_timeout_s):
            group.kill()
            return None
        return group


# One for each process, as Ray Train has one context for each.
KEEPER = GroupKeeper()


def train_in_own_group(task: TrialTask, storage: Path, placement: Placement) -> None:
    """Train a task on a worker group that Ray Train starts for it, by documented interfaces only.

    The ranks report to Tune. They leave the task once the trial has a verdict (see
    `verdict_scheduler`).
    """
    from ray.tune.integration.ray_train import TuneReportCallback

    # A name that was used before would make Ray Train restore its own state.
    name = f"{task.trial.id}-{uuid.uuid4().hex[:8]}"
    options = trainer_options(name, storage, placement, task, [TuneReportCallback()])
    TorchTrainer(train_cancellable_worker, **options).fit()


def trainer_options(
    name: str,
    storage: Path,
    placement: Placement,
    task: TrialTask | None = None,
    callbacks: list[Any] | None = None,
) -> dict[str, Any]:
    """Return the options of a TorchTrainer besides its function."""
    return {
        "train_loop_config": {"task": task},
        "torch_config": TorchConfig(timeout_s=300),
        "scaling_config": ScalingConfig(
            num_workers=placement.workers,
            use_gpu=placement.gpus > 0,
            resources_per_worker=placement.resources,
        ),
        "run_config": RunConfig(
            name=name,
            storage_path=str(storage),
            failure_config=_no_retries(),
            callbacks=callbacks,
        ),
    }


def _no_retries() -> FailureConfig:
    """Return a config by which Ray Train starts no worker again.

    A death that would repeat is a verdict, so an error is a fault of the machine. The search
    decides whether the trial is started again, and from where.
    """
    limits: dict[str, Any] = {"max_failures": 0, "controller_failure_limit": 3}
    # Ray 2.56 does not count preemptions separately.
    if "max_preemption_failures" in {field.name for field in dataclasses.fields(FailureConfig)}:
        limits["max_preemption_failures"] = 0
    return FailureConfig(**limits)
