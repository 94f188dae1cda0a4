"""Which trackers a config asks for, and whether their packages are installed."""

from __future__ import annotations

import importlib.util
import logging
from typing import TYPE_CHECKING

from segtune.config.log_config import LogConfig
from segtune.errors import ConfigError
from segtune.runs.environment import without_passwords
from segtune.runs.rundir import SearchDir

if TYPE_CHECKING:
    from segtune.tracking.tracker import Tracker
    from segtune.training.listener import TrainingListener

log = logging.getLogger(__name__)

# Trackers that are no dependency of segtune: their package and extra have their name.
EXTRAS = ("wandb", "mlflow")


def check_trackers(config: LogConfig) -> None:
    """Raise ConfigError that names the extra for each package of `log.to` that is missing."""
    missing = [
        f'log.to: {name} is not installed; install it with: pip install "segtune[{name}]", or '
        f"leave {name} out of log.to"
        for name in EXTRAS
        if name in config.to and importlib.util.find_spec(name) is None
    ]
    if missing:
        raise ConfigError(missing)


def prepare_trackers(config: LogConfig, run: SearchDir) -> None:
    """Create the database of MLflow before the trials, which would all create one of their own."""
    if "mlflow" not in config.to:
        return
    from segtune.tracking.mlflow_run import quiet, tracking_places

    quiet()
    try:
        tracking_places(config, run.path)
    except Exception as error:  # whatever it is: the trials say so, too, and train without MLflow
        log.warning("log.to: mlflow has no database: %s", without_passwords(str(error)))


def recorders(config: LogConfig) -> list[TrainingListener]:
    """Return the listeners that record a training run as `config` asks for.

    Raise ConfigError if a package is missing.
    """
    from segtune.tracking.recorder import Recorder

    check_trackers(config)
    trackers = [_tracker(name) for name in dict.fromkeys(config.to)]
    return [Recorder(trackers)] if trackers else []


def _tracker(name: str) -> Tracker:
    from segtune.tracking.background import BackgroundTracker

    if name == "wandb":
        from segtune.tracking.wandb_run import WandbRun

        return BackgroundTracker(name, WandbRun(), begins_here=True)
    if name == "mlflow":
        from segtune.tracking.mlflow_run import MlflowRun

        return BackgroundTracker(name, MlflowRun())
    from segtune.tracking.tensorboard import TensorBoard

    return TensorBoard()
