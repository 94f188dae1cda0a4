"""The config of one training run: every setting with its range, default and meaning.

Knows nothing of searches; their settings are in `tuning/search_config.py`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from segtune.config.augment_config import AugmentConfig
from segtune.config.data_config import DataConfig
from segtune.config.file_kinds import check_is_config
from segtune.config.health_config import HealthConfig
from segtune.config.log_config import SQLITE, LogConfig
from segtune.config.loss_config import LossConfig
from segtune.config.model_config import ModelConfig
from segtune.config.optim_config import OptimConfig
from segtune.config.schedule_config import ScheduleConfig
from segtune.config.settings import Settings
from segtune.config.val_config import ValConfig
from segtune.config.yaml_io import parse_assignments, read_yaml


class CheckpointConfig(Settings):
    """When checkpoints are written, and which of them a search keeps.

    A training run keeps its best and its last checkpoint.
    """

    every: int = Field(
        default=10,
        ge=1,
        description="Epochs between checkpoints. The last epoch always has one.",
    )
    keep_trials: int | None = Field(
        default=3,
        ge=1,
        description="Number of a search's best trials that keep their checkpoints. Trial 0, the "
        "config itself, keeps its own, too. Those of other trials are deleted when the trial has "
        "ended; records are always kept. null: all.",
    )


class ExperimentConfig(Settings):
    """The config of one training run: the only thing that training reads."""

    seed: int = Field(
        default=0,
        ge=0,
        lt=2**31,
        description="Seed of the initial weights, the order of the images and the augmentation.",
    )
    data: DataConfig = Field(default_factory=DataConfig, description="Images, masks, classes.")
    augment: AugmentConfig = Field(
        default_factory=AugmentConfig, description="Training augmentation."
    )
    model: ModelConfig = Field(default_factory=ModelConfig, description="Network.")
    loss: LossConfig = Field(default_factory=LossConfig, description="Loss.")
    optim: OptimConfig = Field(default_factory=OptimConfig, description="Optimiser.")
    schedule: ScheduleConfig = Field(
        default_factory=ScheduleConfig, description="Length, batch size, learning rate schedule."
    )
    val: ValConfig = Field(
        default_factory=ValConfig,
        description="How validation and prediction show images to the model.",
    )
    checkpoint: CheckpointConfig = Field(
        default_factory=CheckpointConfig, description="When checkpoints are written."
    )
    health: HealthConfig = Field(
        default_factory=HealthConfig, description="When a training run ends early."
    )
    log: LogConfig = Field(
        default_factory=LogConfig, description="What is shown and recorded of the progress."
    )

    def notes(self) -> list[str]:
        """Return a line for each setting that has no effect, or a doubtful one."""
        notes = []
        if self.schedule.eta_min > self.optim.lr:
            notes.append(
                f"schedule.eta_min: {self.schedule.eta_min:g} is above optim.lr "
                f"{self.optim.lr:g}, so the learning rate rises until the end"
            )
        if self.val.mode == "whole" and self.val.window:
            notes.append(
                f"val.window: {list(self.val.window)} has no effect, because val.mode is whole; "
                "set val.mode: slide, or leave val.window out"
            )
        return notes


# Settings that may change when a training run or a search is resumed, because they do not change
# its numbers.
CHANGEABLE_ON_RESUME = (
    "data.root",
    "data.num_loaders",
    "data.cache",
    "data.cache_gb",
    "checkpoint.every",
    "checkpoint.keep_trials",
    *LogConfig.names("log."),
)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read a config file and apply `name=value` overrides.

    Raises ConfigError that lists all mistakes with file, line and the nearest valid name.
    """
    tree, source = read_yaml(path, ("best.yaml", "config.yaml"))
    check_is_config(path, tree)
    config = ExperimentConfig.parse(tree, source)
    changes, command_line = parse_assignments(overrides)
    return config.override(changes, command_line) if changes else config


def absolute_paths(config: ExperimentConfig) -> ExperimentConfig:
    """Return the config with absolute paths, because workers run in folders of their own."""
    changes: dict[str, str] = {"data.root": str(Path(config.data.root).absolute())}
    if config.data.cache not in ("auto", "none"):
        changes["data.cache"] = str(Path(config.data.cache).absolute())
    if config.model.weights:
        changes["model.weights"] = absolute_weights(config.model.weights)
    database = config.log.mlflow_uri or ""
    if database.startswith(SQLITE):
        changes["log.mlflow_uri"] = f"{SQLITE}{Path(database.removeprefix(SQLITE)).absolute()}"
    return config.override(changes)


def absolute_weights(weights: str) -> str:
    """Return an absolute path if there is such a file or folder; the name itself if not."""
    path = Path(os.path.expanduser(weights))
    return str(path.absolute()) if path.exists() else weights
