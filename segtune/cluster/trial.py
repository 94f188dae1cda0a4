"""One trial: its config, its folder, its workers, and the verdict of an error.

A single worker trains in the trial's own process. Two or more are a worker group.
"""

from __future__ import annotations

import socket
import traceback
from pathlib import Path
from typing import Any

from segtune.cluster.messages import DrawnTrial, Measurement, TrialReport, TrialTask
from segtune.cluster.node_watch import LateNodeCheck, UnfitNodeError
from segtune.cluster.placement import Placement
from segtune.cluster.ray_internals import WORKER_GROUPS, train_errors
from segtune.cluster.worker import release_memory, train_rank
from segtune.config.yaml_io import write_yaml
from segtune.errors import FULL_DISK_ERRORS, LOST_DISK_ERRORS, SegtuneError, place_problem
from segtune.runs.atomic import write_atomic
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.runs.verdict import DISK, UNFIT_NODE, Verdict
from segtune.tuning.study import Study


def run_trial(
    config: dict[str, Any],
    *,
    study: Study,
    run: str,
    placement: Placement,
    pause_epochs: tuple[int, ...] = (),
    check_node: LateNodeCheck | None = None,
) -> None:
    """Train one trial. Tune calls this function; `config` is that of a DrawnTrial.

    `pause_epochs` are the epochs at which the search may pause the trial. `check_node` checks a
    node that has joined the cluster after the start of the search.

    An error ends in the trial's verdict and in its error.txt. It is not raised, because Tune would
    repeat the trial or stop the search.
    """
    drawn = DrawnTrial.from_config(config)
    trial = SearchDir(Path(run)).trial(drawn.number, drawn.attempt)
    if check_node:
        _leave_if_unfit(check_node, trial)
    try:
        trial.check_current()
        trial_config = study.trial_config(drawn.params)
        write_atomic(trial.config, write_yaml(trial_config.dump()))
        task = TrialTask.of(
            trial_config,
            trial,
            placement.cpus,
            resume=drawn.attempt > 1,
            resume_epoch=trial.read_attempts()[drawn.attempt - 1].pause_epoch,
            init_from=study.search.init_from,
            measurement=_measurement(study, drawn),
            pause_epochs=pause_epochs,
        )
        _train(task, Path(run) / "ray", placement)
    except Exception as error:  # no error of a trial, whatever it is, may end the search
        if trial.is_current():
            verdict = _verdict_of(error, trial)
            if verdict.kind != DISK:  # the message says all, and there may be no space for more
                write_atomic(trial.error, traceback.format_exc())
            trial.write_verdict(verdict)
    finally:
        release_memory()


def _leave_if_unfit(check_node: LateNodeCheck, trial: TrialDir) -> None:
    """End the trial if its node is not fit for trials.

    The error is raised, so that Tune ends this process too and its slot can be reserved.
    """
    try:
        check_node()
    except UnfitNodeError as error:
        trial.write_verdict(Verdict(state="failed", kind=UNFIT_NODE, evidence=str(error)[:500]))
        raise


def _measurement(study: Study, drawn: DrawnTrial) -> Measurement | None:
    """Return what to measure of a trial's network; None if no guard or objective asks for it."""
    search = study.search
    if not search.measures_network:
        return None
    return Measurement(
        study.config.override(drawn.params).dump(),
        search.guards.dump(),
        search.measures_latency,
        # The other trials are compared with trial 0, so it is trained in any case.
        may_end_trial=drawn.number > 0,
    )


def _train(task: TrialTask, storage: Path, placement: Placement) -> None:
    if placement.workers == 1:
        _train_in_process(task)
        return
    from segtune.cluster.worker_group import KEEPER, train_in_own_group

    if WORKER_GROUPS.get():
        KEEPER.train(task, _report, storage, placement)
    else:
        train_in_own_group(task, storage, placement)


def _report(report: TrialReport) -> None:
    import ray.tune

    ray.tune.report(report.to_metrics())


def _train_in_process(task: TrialTask) -> None:
    """Train in Ray Train's local mode: the training loop runs in this process."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    TorchTrainer(
        lambda config: train_rank(config["task"], _report),
        train_loop_config={"task": task},
        scaling_config=ScalingConfig(num_workers=0),
        run_config=RunConfig(name=task.trial.id),
    ).fit()


def root_cause(error: Exception) -> Exception:
    """Return the cause of a worker group's failure.

    This is a SegtuneError if there is one, then the loss of a worker or a node, then the first
    error. When one rank dies, the others raise connection errors, which are only symptoms.
    """
    failures = getattr(error, "worker_failures", None) or {}
    causes = [*failures.values()] or [getattr(error, "controller_failure", error)]
    user_errors = [cause for cause in causes if isinstance(cause, SegtuneError)]
    losses = [cause for cause in causes if is_worker_loss(cause)]
    return [*user_errors, *losses, *causes][0]


def is_worker_loss(cause: Exception) -> bool:
    """Whether Ray has lost a worker, a controller or a node, or could not start it."""
    from ray.exceptions import RayError

    return isinstance(cause, (RayError, *train_errors()))


def _verdict_of(error: Exception, trial: TrialDir) -> Verdict:
    cause = root_cause(error)
    kind = _kind_of(cause)
    if kind == DISK:
        epoch, step = trial.progress()
        evidence = f"{place_problem(cause)} (on {socket.gethostname()})"
        return Verdict(state="interrupted", kind=kind, epoch=epoch, step=step, evidence=evidence)
    lines = str(cause).strip().splitlines() or [""]
    evidence = f"{type(cause).__name__}: {lines[0 if kind == 'lost' else -1]}"
    epoch, step = trial.progress()
    return Verdict(
        state="unhealthy" if kind == "out-of-memory" else "failed",
        kind=kind,
        epoch=epoch,
        step=step,
        evidence=(str(cause) if kind == "config" else evidence)[:500],
        advice=f"the whole message is in {trial.error}",
    )


def _kind_of(cause: Exception) -> str:
    """Return the kind of the verdict of an error.

    An out-of-memory error arrives here only from outside a training step, for example from a
    validation. In a training step the trainer finds out what fits, and writes the verdict itself.
    """
    from segtune.training.memory import is_out_of_memory

    if isinstance(cause, SegtuneError):
        return "config"
    if isinstance(cause, OSError) and cause.errno in FULL_DISK_ERRORS:
        return DISK
    if is_worker_loss(cause) or (isinstance(cause, OSError) and cause.errno in LOST_DISK_ERRORS):
        return "lost"
    return "out-of-memory" if is_out_of_memory(cause) else "exception"
