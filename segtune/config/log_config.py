"""The settings of what a training run shows and records of its progress. None changes a number."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from segtune.config.settings import Settings

TrackerName = Literal["tensorboard", "wandb", "mlflow"]
# `log.images: auto` in a training run of its own; a trial of a search then has none.
AUTO_IMAGES = 4
SQLITE = "sqlite:///"  # of MLflow, followed by the path of a database file


class LogConfig(Settings):
    """What a training run shows and records of its progress. Changes no number of the run."""

    to: tuple[TrackerName, ...] = Field(
        default=("tensorboard",),
        description="Where curves and images go: tensorboard (the folder tb of the run), wandb "
        "(Weights & Biases, extra wandb), mlflow (extra mlflow). []: nowhere. epochs.jsonl is "
        "always written.",
    )
    every_s: float = Field(
        default=30.0,
        gt=0,
        description="Seconds between the lines of progress within an epoch, if the output is no "
        "terminal. A terminal has a bar.",
    )
    every_steps: int = Field(
        default=50,
        ge=1,
        description="Optimiser steps between two points of the curves over steps: loss, its "
        "terms, learning rate, gradient norm, images per second, memory. Each epoch has at least "
        "one point.",
    )
    images: Literal["auto"] | Annotated[int, Field(ge=0, le=64)] = Field(
        default="auto",
        description="Number of validation images that are recorded at each validation: image, "
        "truth and prediction side by side. auto: 4 in a training run, 0 in the trials of a "
        "search, where they would take most of the space of the curves.",
    )
    project: str = Field(
        default="segtune",
        min_length=1,
        description="Project of Weights & Biases, and experiment of MLflow.",
    )
    mlflow_uri: str | None = Field(
        default=None,
        min_length=1,
        description="Tracking URI of MLflow, for example http://server:5000. null: the "
        "environment variable MLFLOW_TRACKING_URI, otherwise mlflow.db in the folder of the "
        "training run or the search run, for a single machine.",
    )
