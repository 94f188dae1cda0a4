"""One config on a Ray worker group, without a search."""

from __future__ import annotations

from pathlib import Path

from segtune.cluster.placement import live_nodes, place_trials
from segtune.cluster.ray_session import ray_connection
from segtune.cluster.trial import make_task, root_cause
from segtune.cluster.worker import train_worker
from segtune.config.schema import ExperimentConfig
from segtune.errors import SegtuneError
from segtune.runs.rundir import TrialDir
from segtune.tuning.study import SearchConfig


def train_on_workers(
    config: ExperimentConfig,
    out: Path,
    workers: int,
    *,
    address: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    init_from: str | None = None,
) -> None:
    """Trains one config on a worker group of its own, without a search. Raises ClusterError where it does not fit."""
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    from segtune.cluster.worker_group import trainer_options

    with ray_connection(address):
        placement = place_trials(SearchConfig(trials=1, workers_per_trial=workers), live_nodes())
        task = make_task(
            config,
            TrialDir(out),
            placement,
            resume=resume,
            overwrite=overwrite,
            init_from=init_from,
        )
        try:
            TorchTrainer(
                train_worker, **trainer_options(task, out.name, out / "ray", placement)
            ).fit()
        except TrainingFailedError as error:
            cause = root_cause(error)
            if isinstance(cause, SegtuneError):
                raise cause from None
            raise
