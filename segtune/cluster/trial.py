"""One trial: its config, its folder, its workers. One worker trains in the trial's own process, two or more in a worker group."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path
from typing import Any

from segtune.cluster.placement import Placement
from segtune.cluster.worker import Task, release_memory, train_rank
from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import write_yaml
from segtune.errors import SegtuneError
from segtune.runs.atomic import write_atomic
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.runs.verdict import Verdict
from segtune.tuning.study import Study

log = logging.getLogger(__name__)


def make_task(
    config: ExperimentConfig,
    out: TrialDir,
    placement: Placement,
    *,
    resume: bool = False,
    overwrite: bool = False,
    init_from: str | None = None,
) -> Task:
    """Returns what a worker needs, as plain values."""
    where = {"out": str(out.path), "attempt": out.attempt}
    return {
        "config": config.dump(),
        **where,
        "cpus": placement.cpus,
        "resume": resume,
        "overwrite": overwrite,
        "init_from": init_from,
    }


def run_trial(drawn: dict[str, Any], *, study: Study, run: str, placement: Placement) -> None:
    """The function that Tune calls for one trial: `drawn` is {number, params, attempt}.

    Faults end in the trial's verdict and error.txt, not in an exception: Tune would repeat it or stop the search.
    """
    trial = SearchDir(Path(run)).trial(drawn["number"], drawn["attempt"])
    try:
        trial.check_current()
        config = study.trial_config(drawn["params"])
        write_atomic(trial.config, write_yaml(config.dump()))
        task = make_task(config, trial, placement, resume=drawn["attempt"] > 1)
        if placement.workers == 1:
            _train_here(task)
        else:
            import ray.tune

            from segtune.cluster.worker_group import train_in_group

            train_in_group(task, ray.tune.report, Path(run) / "ray", placement)
    except (
        Exception
    ) as error:  # the fence around a trial: whatever it is, it must not take the search with it
        if trial.is_current():
            write_atomic(trial.path / "error.txt", traceback.format_exc())
            trial.write_verdict(_verdict_of(error, trial))
    finally:
        release_memory()


def _train_here(task: Task) -> None:
    """Ray Train's local mode: the loop runs in this process and reports to Tune directly."""
    import ray.tune
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    TorchTrainer(
        lambda task: train_rank(task, ray.tune.report),
        train_loop_config=task,
        scaling_config=ScalingConfig(num_workers=0),
        run_config=RunConfig(name=Path(task["out"]).name),
    ).fit()


def root_cause(error: Exception) -> Exception:
    """Returns what is behind the error of a worker group: a user's mistake, else a lost worker, else what one has raised.

    The others of a dead worker raise too, for the connection that it has left.
    """
    causes = [*(getattr(error, "worker_failures", None) or {}).values()] or [
        getattr(error, "controller_failure", error)
    ]
    return next((c for c in causes if isinstance(c, SegtuneError)), None) or next(
        filter(is_worker_loss, causes), causes[0]
    )


def is_worker_loss(cause: Exception) -> bool:
    """Whether Ray itself tells of it: a worker, a controller or a node that is no more, or that has never come up."""
    from ray.exceptions import RayError
    from ray.train.v2._internal.exceptions import RayTrainError

    return isinstance(cause, (RayError, RayTrainError))


def _verdict_of(error: Exception, trial: TrialDir) -> Verdict:
    from segtune.training.memory import is_out_of_memory

    (epoch, step), cause = trial.progress(), root_cause(error)
    # Outside of a training step, as in a validation: there the trainer itself finds what would fit.
    no_room = is_out_of_memory(cause)
    kind = (
        "config"
        if isinstance(cause, SegtuneError)
        else "lost"
        if is_worker_loss(cause)
        else "out-of-memory"
        if no_room
        else "exception"
    )
    lines = str(cause).strip().splitlines() or [""]
    text = (
        str(cause)
        if kind == "config"
        else f"{type(cause).__name__}: {lines[0 if kind == 'lost' else -1]}"
    )
    return Verdict(
        state="unhealthy" if no_room else "failed",
        kind=kind,
        epoch=epoch,
        step=step,
        evidence=text[:500],
        advice=f"the whole message is in {trial.path / 'error.txt'}",
    )
