"""One config on a Ray worker group, without a search."""

from __future__ import annotations

from pathlib import Path

from segtune.cluster.messages import TrialTask
from segtune.cluster.placement import live_nodes, place_trials
from segtune.cluster.ray_session import ray_connection
from segtune.cluster.trial import root_cause
from segtune.cluster.worker import train_worker
from segtune.config.schema import ExperimentConfig
from segtune.errors import SegtuneError
from segtune.runs.rundir import TrialDir
from segtune.tuning.search_config import SearchConfig


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
    """Train one config on `workers` workers, in the folder `out`.

    `resume`, `overwrite` and `init_from` are those of the Trainer. Raise ClusterError if the
    workers do not fit, and the SegtuneError that a rank has raised.
    """
    from ray.train import TrainingFailedError
    from ray.train.torch import TorchTrainer

    from segtune.cluster.worker_group import trainer_options

    with ray_connection(address):
        placement = place_trials(SearchConfig(trials=1, workers_per_trial=workers), live_nodes())
        task = TrialTask.of(
            config,
            TrialDir(out),
            placement.cpus,
            resume=resume,
            overwrite=overwrite,
            init_from=init_from,
        )
        options = trainer_options(out.name, out / "ray", placement, task)
        try:
            TorchTrainer(train_worker, **options).fit()
        except TrainingFailedError as error:
            cause = root_cause(error)
            if isinstance(cause, SegtuneError):
                raise cause from None
            raise
