"""Ranks that stay from trial to trial: whose rows are whose, and what becomes of ranks that do not come back."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import ray

from segtune.cluster import worker_group as group
from segtune.cluster.placement import Placement
from segtune.cluster.ray_internals import release_orphans
from segtune.cluster.trial import make_task
from segtune.cluster.worker import READY, ShouldCancel, task_name
from segtune.cluster.worker_group import Group, RestartedError, train_in_group
from segtune.runs.rundir import TrialDir
from segtune.runs.verdict import Verdict

PLACEMENT = Placement(workers=2, cpus=1.0, gpus=0.0, concurrent=1)


@pytest.fixture
def task(tiny_config, tmp_path):
    """Makes tasks of one epoch, or of as many as are asked for."""

    def make(name, epochs=1):
        config = tiny_config.override({"schedule.epochs": epochs, "schedule.warmup_epochs": 0})
        return make_task(config, TrialDir(tmp_path / name), PLACEMENT)

    return make


def in_an_actor(work, *given):
    """Calls a function in an actor of its own, as Tune would: only there Ray Train starts groups for us."""

    class Trial:
        def run(self):
            return work(*given)

    trial = ray.remote(num_cpus=0, max_concurrency=2)(Trial).remote()
    try:
        return ray.get(trial.run.remote())
    finally:
        ray.kill(trial)
        while release_orphans():
            time.sleep(0.1)


@pytest.mark.slow
def test_ranks_of_a_stopped_trial_train_the_next_and_tell_nothing_of_the_old(
    cluster, task, tmp_path
):
    def work(first, second, third, storage):
        def stop(row):
            raise SystemExit

        def end(row):
            # Nobody calls the ranks back; the search has said how their trial ended.
            TrialDir(Path(third["out"])).write_verdict(Verdict(state="pruned", epoch=1))

        told = []
        with contextlib.suppress(SystemExit):
            train_in_group(first, stop, storage, PLACEMENT)
        stayed = group._group
        train_in_group(second, told.append, storage, PLACEMENT)
        train_in_group(third, end, storage, PLACEMENT)
        return told, stayed is group._group

    told, stayed = in_an_actor(
        work,
        task("first", epochs=500),
        task("second", epochs=2),
        task("third", epochs=500),
        tmp_path / "ray",
    )
    assert stayed
    assert [row["epoch"] for row in told] == [1, 2]
    assert TrialDir(tmp_path / "first").read_verdict() is None
    assert all(len(TrialDir(tmp_path / name).read_epochs()) < 400 for name in ("first", "third"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", ["killed while idle", "does not come back", "an error in between"]
)
def test_ranks_that_have_failed_are_replaced(cluster, task, tmp_path, fault):
    def work(first, second, storage):
        def stop(row):
            raise {"an error in between": RuntimeError("a defect")}.get(fault, SystemExit())

        told = []
        with contextlib.suppress(SystemExit, RuntimeError):
            train_in_group(
                first, told.append if fault == "killed while idle" else stop, storage, PLACEMENT
            )
        before = group._group
        if fault == "killed while idle":
            rank = before._ranks().get_workers()[1]
            os.kill(ray.get(rank.actor.execute.remote(os.getpid)), signal.SIGKILL)
            before.thread.join(30)
        if fault == "does not come back":
            before.task, group.PATIENCE_S = "a task that never ends", 5.0
        train_in_group(second, told.append, storage, PLACEMENT)
        groups = [thread for thread in threading.enumerate() if thread.name == "worker-group"]
        return [row["epoch"] for row in told], before is not group._group, len(groups)

    first = task("first", epochs=1 if fault == "killed while idle" else 500)
    told, replaced, groups = in_an_actor(work, first, task("second"), tmp_path / "ray")
    assert (told[-1], len(told), replaced, groups) == (
        1,
        2 if fault == "killed while idle" else 1,
        True,
        1,
    )


def told_of(*said):
    """A group, of which only what its ranks say is there."""
    one = Group.__new__(Group)
    one.task, one.ready, one.told = "", False, group.queue.SimpleQueue()
    for word in said:
        one.told.put(word)
    one._send = lambda *_: None  # type: ignore[method-assign]
    return one


def test_ranks_started_again_in_the_middle_of_a_task_are_a_loss(task):
    one = task("a")
    restarted = told_of(READY, {"epoch": 1}, READY, {"epoch": 1})
    rows = restarted.rows(one)
    assert next(rows) == {"epoch": 1}
    with pytest.raises(RestartedError):
        next(rows)


def test_what_is_left_of_a_task_is_not_told_of_the_next(task, monkeypatch):
    monkeypatch.setattr(group, "PATIENCE_S", 0.1)
    first, second = task("a"), task("b")
    ranks = told_of(READY, {"epoch": 1})
    assert next(ranks.rows(first)) == {"epoch": 1}
    assert not ranks.wait_until_idle()  # not back yet
    for word in ({"epoch": 2}, {"epoch": 3}, task_name(first)):
        ranks.told.put(word)
    assert ranks.wait_until_idle()
    for word in ({"epoch": 1}, task_name(second)):
        ranks.told.put(word)
    assert list(ranks.rows(second)) == [{"epoch": 1}]
    ranks.told.put(RuntimeError("dead"))
    assert not ranks.wait_until_idle()


def test_a_task_that_was_never_handed_out_is_not_waited_for(task):
    ranks = told_of()
    ranks.task = task_name(task("a"))
    assert ranks.wait_until_idle()


def test_a_rank_leaves_once_the_search_has_said_how_its_trial_ended(task, tmp_path, monkeypatch):
    monkeypatch.setattr("segtune.cluster.worker.LOOK_EVERY_S", 0.0)
    is_over = ShouldCancel(task("a"))
    assert not is_over()
    TrialDir(tmp_path / "a").write_verdict(Verdict(state="pruned"))
    assert is_over()
