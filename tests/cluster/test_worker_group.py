"""Groups of ranks that serve one trial after another, and what happens if ranks fail."""

import contextlib
import json
import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from segtune.cluster.messages import (
    Died,
    DrawnTrial,
    Finished,
    Message,
    Ready,
    Reported,
    TrialReport,
    TrialTask,
    message_of,
)
from segtune.cluster.placement import Placement
from segtune.cluster.ray_internals import release_orphans
from segtune.cluster.worker import MAILBOX, ShouldCancel
from segtune.cluster.worker_group import GroupKeeper, RestartedError, TrainGroup
from segtune.config.schema import ExperimentConfig
from segtune.runs.rundir import TrialDir
from segtune.runs.verdict import Verdict

pytestmark = pytest.mark.ray

PLACEMENT = Placement(workers=2, cpus=1.0, gpus=0.0, concurrent=1)
MakeTask = Callable[..., TrialTask]


@pytest.fixture
def make_task(tiny_config: ExperimentConfig, tmp_path: Path) -> MakeTask:
    """Return a function that makes the task of training in the folder of this name."""

    def make(name: str, epochs: int = 1) -> TrialTask:
        changes = {"schedule.epochs": epochs, "schedule.warmup_epochs": 0}
        return TrialTask.of(tiny_config.override(changes), TrialDir(tmp_path / name), cpus=1.0)

    return make


def call_in_actor(work: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in an actor, as Tune does. Ray Train starts our groups only in an actor.

    Ray's workers cannot import this file, so `work` has to be a local function that uses none of
    the functions here.
    """

    class Trial:
        def run(self) -> Any:
            return work(*arguments)

    trial = ray.remote(num_cpus=0, max_concurrency=2)(Trial).remote()
    try:
        return ray.get(trial.run.remote())
    finally:
        ray.kill(trial)
        while release_orphans():
            time.sleep(0.1)


def pid_of_rank_0(trial: TrialDir) -> int:
    return json.loads(trial.heartbeat.read_text())["pid"]


@pytest.mark.slow
def test_ranks_of_a_stopped_trial_train_the_next_and_report_nothing_of_the_old(
    cluster: None, make_task: MakeTask, tmp_path: Path
) -> None:
    def work(first: TrialTask, second: TrialTask, third: TrialTask, storage: Path) -> list[int]:
        def stop(report: TrialReport) -> None:
            raise SystemExit

        def end(report: TrialReport) -> None:
            # As at the end of a search: nothing cancels the task, but its trial has a verdict.
            third.trial.write_verdict(Verdict(state="pruned", epoch=1))

        keeper = GroupKeeper()
        epochs: list[int] = []
        with contextlib.suppress(SystemExit):
            keeper.train(first, stop, storage, PLACEMENT)
        keeper.train(second, lambda report: epochs.append(report.epoch), storage, PLACEMENT)
        keeper.train(third, end, storage, PLACEMENT)
        return epochs

    tasks = [make_task("first", 500), make_task("second", 2), make_task("third", 500)]
    epochs = call_in_actor(work, *tasks, tmp_path / "ray")
    trials = [task.trial for task in tasks]
    assert epochs == [1, 2]
    assert len({pid_of_rank_0(trial) for trial in trials}) == 1
    assert trials[0].read_verdict() is None
    assert all(len(trial.read_epochs()) < 400 for trial in (trials[0], trials[2]))


@pytest.mark.slow
def test_ranks_that_were_killed_while_idle_are_replaced(
    cluster: None, make_task: MakeTask, tmp_path: Path
) -> None:
    def work(first: TrialTask, second: TrialTask, storage: Path) -> tuple[list[int], int]:
        keeper = GroupKeeper()
        epochs: list[int] = []
        keeper.train(first, lambda report: epochs.append(report.epoch), storage, PLACEMENT)
        os.kill(json.loads(first.trial.heartbeat.read_text())["pid"], signal.SIGKILL)
        [thread] = [t for t in threading.enumerate() if t.name == "worker-group"]
        thread.join(30)
        keeper.train(second, lambda report: epochs.append(report.epoch), storage, PLACEMENT)
        return epochs, [thread.name for thread in threading.enumerate()].count("worker-group")

    tasks = [make_task("first"), make_task("second")]
    assert call_in_actor(work, *tasks, tmp_path / "ray") == ([1, 1], 1)
    assert pid_of_rank_0(tasks[0].trial) != pid_of_rank_0(tasks[1].trial)


@pytest.mark.slow
@pytest.mark.parametrize("error", [SystemExit(), RuntimeError("a defect")], ids=["late", "defect"])
def test_ranks_that_do_not_leave_in_time_or_whose_trial_failed_are_replaced(
    cluster: None, make_task: MakeTask, tmp_path: Path, error: BaseException
) -> None:
    def work(first: TrialTask, second: TrialTask, storage: Path) -> tuple[list[int], int]:
        def fail(report: TrialReport) -> None:
            raise error

        # No rank reaches its next step in no time at all.
        keeper = GroupKeeper(cancel_timeout_s=0.0)
        epochs: list[int] = []
        with contextlib.suppress(SystemExit, RuntimeError):
            keeper.train(first, fail, storage, PLACEMENT)
        keeper.train(second, lambda report: epochs.append(report.epoch), storage, PLACEMENT)
        return epochs, [thread.name for thread in threading.enumerate()].count("worker-group")

    tasks = [make_task("first", 500), make_task("second")]
    assert call_in_actor(work, *tasks, tmp_path / "ray") == ([1], 1)
    assert pid_of_rank_0(tasks[0].trial) != pid_of_rank_0(tasks[1].trial)


class RecordedCalls:
    """Stands for the processes of the ranks: records what they were asked to call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        self.calls.append((function.__name__, *arguments))

    def kill(self) -> None:
        self.calls.append(("kill", None))


def group_with(*messages: Message) -> tuple[TrainGroup, queue.SimpleQueue[Message], RecordedCalls]:
    """Return a group whose ranks have sent these messages."""
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    ranks = RecordedCalls()
    for message in messages:
        inbox.put(message)
    return TrainGroup(inbox, ranks), inbox, ranks


def reported(epoch: int) -> Reported:
    return Reported(TrialReport(epoch, miou=0.5, loss=1.0))


def test_ranks_get_their_task_once_they_are_ready(make_task: MakeTask) -> None:
    task = make_task("a")
    group, _, ranks = group_with(Ready(), reported(1), Finished(task.name))
    assert list(group.train(task)) == [reported(1).report]
    assert ranks.calls == [("submit", task)]


def test_ranks_that_restart_in_the_middle_of_a_task_raise(make_task: MakeTask) -> None:
    group, _, _ = group_with(Ready(), reported(1), Ready(), reported(1))
    reports = group.train(make_task("a"))
    assert next(reports) == reported(1).report
    with pytest.raises(RestartedError):
        next(reports)


def test_error_of_the_ranks_is_raised(make_task: MakeTask) -> None:
    group, _, _ = group_with(Ready(), Died(MemoryError("no more")))
    with pytest.raises(MemoryError, match="no more"):
        list(group.train(make_task("a")))


def test_late_reports_of_a_cancelled_task_do_not_reach_the_next(make_task: MakeTask) -> None:
    first, second = make_task("a"), make_task("b")
    group, inbox, ranks = group_with(Ready(), reported(1))
    assert next(group.train(first)) == reported(1).report
    group.cancel()
    assert ranks.calls[-1] == ("cancel", first.name)
    assert not group.wait_until_idle(timeout_s=0.1)  # the ranks have not left the task yet
    for late in (reported(2), reported(3), Finished(first.name)):
        inbox.put(late)
    assert group.wait_until_idle(timeout_s=0.1)
    for message in (reported(1), Finished(second.name)):
        inbox.put(message)
    assert list(group.train(second)) == [reported(1).report]


def test_group_with_dead_ranks_is_not_usable(make_task: MakeTask) -> None:
    group, inbox, _ = group_with()
    assert group.wait_until_idle(timeout_s=60.0)  # no task, so there is nothing to wait for
    inbox.put(Died(RuntimeError("dead")))
    assert not group.wait_until_idle(timeout_s=60.0)


def test_rank_leaves_a_task_that_was_cancelled(make_task: MakeTask) -> None:
    task, other = make_task("a"), make_task("b")
    should_cancel = ShouldCancel(task)
    MAILBOX.cancel(other.name)
    assert not should_cancel()
    MAILBOX.cancel(task.name)
    assert should_cancel()


def test_rank_leaves_a_task_whose_trial_has_a_verdict(make_task: MakeTask) -> None:
    task = make_task("a")
    should_cancel = ShouldCancel(task, check_every_s=0.0)
    assert not should_cancel()
    task.trial.write_verdict(Verdict(state="pruned"))
    assert should_cancel()


def test_two_attempts_at_a_trial_have_tasks_of_different_names(
    tiny_config: ExperimentConfig, tmp_path: Path
) -> None:
    names = {TrialTask.of(tiny_config, TrialDir(tmp_path, n), cpus=1.0).name for n in (1, 2)}
    assert len(names) == 2


@pytest.mark.parametrize("message", [Ready(), reported(3), Finished("a task")])
def test_message_is_the_same_after_ray_train_has_carried_it(message: Any) -> None:
    assert message_of(message.to_metrics()) == message


def test_drawn_trial_is_the_same_after_tune_has_carried_it() -> None:
    drawn = DrawnTrial(number=3, params={"optim.lr": 1e-3}, attempt=2)
    assert DrawnTrial.from_config(drawn.to_config()) == drawn


def test_epoch_is_the_clock_of_tune() -> None:
    metrics = TrialReport(epoch=7, miou=0.5, loss=1.0).to_metrics()
    assert metrics == {"epoch": 7, "miou": 0.5, "loss": 1.0, "training_iteration": 7}
