"""Which trackers a config asks for, and whether their packages are installed."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from segtune.config.log_config import LogConfig
from segtune.errors import ConfigError

if TYPE_CHECKING:
    from segtune.tracking.tracker import Tracker
    from segtune.training.listener import TrainingListener

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

        return BackgroundTracker(name, WandbRun())
    if name == "mlflow":
        from segtune.tracking.mlflow_run import MlflowRun

        return BackgroundTracker(name, MlflowRun())
    from segtune.tracking.tensorboard import TensorBoard

    return TensorBoard()
