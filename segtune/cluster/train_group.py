"""One config on a Ray worker group, without a search."""

from __future__ import annotations

from pathlib import Path

from segtune.cluster.placement import live_nodes, plan_resources
from segtune.cluster.ray_session import session
from segtune.cluster.trial import _cause, task_of
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
    init_from: str | None = None,
) -> None:
    """Trains one config on a worker group of its own, without a search. Raises ClusterError where it does not fit."""
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    from segtune.cluster.worker_group import settings_of

    with session(address):
        placement = plan_resources(SearchConfig(trials=1, workers_per_trial=workers), live_nodes())
        task = task_of(config, TrialDir(out), placement, resume=resume, init_from=init_from)
        try:
            TorchTrainer(train_worker, **settings_of(task, out.name, out / "ray", placement)).fit()
        except TrainingFailedError as error:
            cause = _cause(error)
            if isinstance(cause, SegtuneError):
                raise cause from None
            raise
