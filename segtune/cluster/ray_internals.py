"""Every use of Ray's private interfaces, and what segtune does on a version of Ray without them.

Private are names with a leading underscore, everything under `ray.core` and `ray.train.v2`, and
modules that Ray's reference does not list. No other file of segtune uses such a name. Each use is
a `Feature`. If a version of Ray lacks one of its names, segtune warns once and falls back to the
documented interface.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import ray
import ray.exceptions
from ray import tune
from ray.tune.experiment import Trial

log = logging.getLogger(__name__)

# An environment variable; "0" makes segtune use the documented interfaces only.
SWITCH = "SEGTUNE_RAY_INTERNALS"


@dataclass(frozen=True)
class Feature:
    """Something that segtune does with private names of Ray."""

    load: Callable[[], Any]  # imports the names; raises ImportError or AttributeError without one
    fallback: str  # what happens on a version of Ray that lacks one of them

    def get(self) -> Any:
        """Return what `load` returns, or None if a name is absent or SWITCH is "0"."""
        if os.environ.get(SWITCH) == "0":
            return None
        try:
            return self.load()
        except (ImportError, AttributeError) as error:
            log.debug("Ray %s: %s", ray.__version__, error)
            return None


def warn_if_incomplete() -> None:
    """Log one warning that says what segtune does differently on this version of Ray, if any."""
    fallbacks = [feature.fallback for feature in FEATURES if feature.get() is None]
    if fallbacks:
        log.warning(
            "Ray %s: segtune works without some private names of Ray, because this version lacks "
            "them or %s is 0. The search is right but slower: %s",
            ray.__version__,
            SWITCH,
            "; ".join(fallbacks),
        )


@cache
def _load_placement_groups() -> SimpleNamespace:
    from ray._private.state import state
    from ray._raylet import ActorID, PlacementGroupID
    from ray.core.generated.gcs_pb2 import (
        PlacementGroupTableData,  # pyright: ignore[reportAttributeAccessIssue]
    )

    def read() -> list[Any]:
        rows = state._connect_and_get_accessor().get_placement_group_table()
        return [PlacementGroupTableData.FromString(row) for row in rows]

    return SimpleNamespace(
        read=read,
        removed=PlacementGroupTableData.REMOVED,
        no_actor=ActorID.nil().binary(),
        id_of=PlacementGroupID,
    )


def release_orphans() -> int:
    """Remove this job's placement groups whose creator is dead; return how many groups it keeps.

    A trial that is stopped or killed takes its Train controller with it, but Ray keeps the
    controller's placement group, and the workers in it, for as long as the driver lives. Ray's own
    cleaner asks the State API. It was seen to wait for ever although the dashboard was running. The
    table of the control store knows the creator in any case. Without access to it this does nothing
    and returns 0.
    """
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    groups = PLACEMENT_GROUPS.get()
    if groups is None:
        return 0
    job = ray.get_runtime_context().get_job_id()
    num_kept = 0
    for group in groups.read():
        if group.creator_job_id.hex() != job or group.is_detached or group.state == groups.removed:
            continue
        # Groups that no actor has created belong to this process: those of Tune's trials.
        if group.creator_actor_id != groups.no_actor and group.creator_actor_dead:
            log.debug("releasing a placement group of a trial that has ended")
            remove_placement_group(PlacementGroup(groups.id_of(group.placement_group_id)))
        else:
            num_kept += 1
    return num_kept


@cache
def _load_actor_of() -> Callable[[Trial], Any]:
    from ray.tune.experiment.trial import _TemporaryTrialState

    _TemporaryTrialState().ray_actor  # noqa: B018 - raises AttributeError if it does not exist
    return lambda trial: trial.temporary_state.ray_actor


def kill_trial(trial: Trial) -> bool:
    """Kill the process of a running trial; return whether this was possible."""
    actor_of = TRIAL_ACTORS.get()
    actor = actor_of(trial) if actor_of else None
    if actor is not None:
        ray.kill(actor)
    return actor is not None


@cache
def _load_quiet_reporter() -> type[tune.Callback]:
    from ray.tune.progress_reporter import TrialProgressCallback

    class QuietReporter(TrialProgressCallback):
        """Replaces the callback that prints a line for each trial that ends, even at verbosity 0.

        segtune's own table says more.
        """

        def _print(self, msg: str) -> None:
            """Print nothing."""

    return QuietReporter


def quiet_callbacks() -> list[tune.Callback]:
    """Return the callbacks that keep Tune from printing."""
    reporter = QUIET_REPORTER.get()
    return [reporter()] if reporter else []


@cache
def _load_train_error() -> type[Exception]:
    from ray.train.v2._internal.exceptions import RayTrainError

    return RayTrainError


def train_errors() -> tuple[type[Exception], ...]:
    """Return the types of the errors that Ray Train raises for a worker or a controller it lost."""
    error = TRAIN_ERRORS.get()
    return (error,) if error else ()


def _report_receiver() -> type:
    from ray.train.v2._internal.execution.callback import ReportCallback

    class ReportReceiver(ReportCallback):
        """Passes on the metrics of rank 0 once all ranks have reported theirs."""

        def __init__(self, on_report: Callable[[dict[str, Any]], None]) -> None:
            self._on_report = on_report

        def after_report(self, training_report: Any, metrics: list[dict[str, Any]]) -> None:
            self._on_report(metrics[0])

    return ReportReceiver


def _uncoordinated_scaling() -> type:
    from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

    # A method that does not exist could be overridden without any effect.
    FixedScalingPolicy._maybe_send_resource_request  # noqa: B018

    class UncoordinatedScaling(FixedScalingPolicy):
        """Requests no resources from Ray's AutoscalingCoordinator, which would be a process.

        The search has counted what fits.
        """

        def after_controller_start(self, train_run_context: Any) -> None:
            pass

        def _maybe_send_resource_request(self) -> None:
            pass

    return UncoordinatedScaling


@cache
def _load_in_process_controller() -> type:
    from ray.train.v2._internal.callbacks import datasets, placement_group_callback
    from ray.train.v2._internal.execution.controller import TrainController
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    DataParallelTrainer._initialize_and_run_controller  # noqa: B018
    # `release_orphans` does what the cleaner does. Training data does not come from Ray Data.
    unneeded = (
        placement_group_callback.PlacementGroupCleanerCallback,
        datasets.DatasetsCallback,
    )
    receiver, scaling = _report_receiver(), _uncoordinated_scaling()

    class InProcessController(DataParallelTrainer):
        """A trainer of Ray Train whose controller runs in the thread that calls `fit`."""

        controller: TrainController | None = None

        def __init__(self, *arguments: Any, on_report: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._on_report = on_report

        def _initialize_and_run_controller(self, **options: Any) -> Any:
            callbacks = [c for c in options["callbacks"] if not isinstance(c, unneeded)]
            options["callbacks"] = [*callbacks, receiver(self._on_report)]
            options["scaling_policy"] = scaling(self.scaling_config)
            self.controller = TrainController(**options)
            asyncio.run(self.controller.run())
            return self.controller.get_result()

    return InProcessController


class WorkerGroupController:
    """Ray Train's controller in a thread of this process, and the worker group that it runs.

    Needs the feature WORKER_GROUPS.
    """

    def __init__(
        self,
        train_loop: Callable[[dict[str, Any]], None],
        options: dict[str, Any],
        on_report: Callable[[dict[str, Any]], None],
    ) -> None:
        """`options` are those of a TorchTrainer; `on_report` is called with what rank 0 reports."""
        from ray.train.torch import TorchTrainer

        # `_load_in_process_controller` cannot import TorchTrainer, because the driver calls it and
        # has no use for torch.
        trainer_class: Any = type("GroupTrainer", (WORKER_GROUPS.get(), TorchTrainer), {})
        self._trainer: Any = trainer_class(train_loop, on_report=on_report, **options)

    def run(self) -> None:
        """Start the ranks and return when they have ended. Raise the errors of Ray Train."""
        self._trainer.fit()

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Start a function in the process of every rank. A rank that is dead is left out."""
        # The death of a rank is reported by `run`.
        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            self._worker_group().execute_async(function, *arguments)

    def kill(self) -> None:
        """Kill the process of every rank."""
        # The actors, not the group: a controller whose group another thread has aborted loops for
        # ever.
        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            for worker in self._worker_group().get_workers():
                ray.kill(worker.actor)

    def _worker_group(self) -> Any:
        controller = self._trainer.controller
        group = controller.get_worker_group() if controller else None
        if group is None:
            raise ValueError("no worker group")  # the error of a group that is about to end
        return group


WORKER_GROUPS = Feature(
    _load_in_process_controller,
    "each trial of two or more workers starts its processes anew",
)
PLACEMENT_GROUPS = Feature(
    _load_placement_groups,
    "after a trial of two or more workers was killed, Ray itself releases the resources, "
    "which may take long and needs the dashboard",
)
TRIAL_ACTORS = Feature(
    _load_actor_of,
    "a trial that hangs is marked as hung but not killed",
)
TRAIN_ERRORS = Feature(
    _load_train_error,
    "a trial whose worker group did not start in time is not started again",
)
QUIET_REPORTER = Feature(
    _load_quiet_reporter,
    "Tune prints a line for each trial that ends",
)
FEATURES = (WORKER_GROUPS, PLACEMENT_GROUPS, TRIAL_ACTORS, TRAIN_ERRORS, QUIET_REPORTER)
