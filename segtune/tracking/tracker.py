"""What every tracker offers: TensorBoard, Weights & Biases and MLflow have one adapter each.

`recorder.py` decides what is recorded; an adapter only hands it over.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from segtune.config.schema import ExperimentConfig
from segtune.config.yaml_io import Tree
from segtune.runs.atomic import write_atomic
from segtune.runs.environment import without_passwords
from segtune.runs.rundir import TrialDir
from segtune.runs.verdict import Verdict

Axis = Literal["step", "epoch"]
Hyperparameter = bool | int | float | str


@dataclass(frozen=True)
class TrackedRun:
    """A training run as a tracker shows it."""

    name: str  # a trial's number, or the folder of a training run
    group: str  # the search run that it belongs to; empty for a training run of its own
    config: ExperimentConfig
    hyperparameters: Mapping[str, Hyperparameter]  # what runs are compared by
    out: TrialDir
    epoch: int  # finished before; points after it are recorded again
    step: int  # made before

    @property
    def settings(self) -> Tree:
        """The config as plain values, without the password of a server."""
        uri = self.config.log.mlflow_uri
        shown = uri if uri is None else without_passwords(uri)
        return self.config.override({"log.mlflow_uri": shown}).dump()

    def tracker_id(self, tracker: str) -> str | None:
        """Return the id that an earlier session has kept for this training run; None if new."""
        return self._ids().get(tracker) if self.epoch else None

    def keep_tracker_id(self, tracker: str, value: str) -> None:
        """Keep the id of this training run in a tracker, so that a resume continues it there."""
        ids = self._ids() | {tracker: value}
        write_atomic(self.out.trackers, json.dumps(ids, indent=1) + "\n")

    def _ids(self) -> dict[str, str]:
        return json.loads(self.out.trackers.read_text()) if self.out.trackers.exists() else {}


class Tracker(Protocol):
    """Takes the curves and images of one training run."""

    def begin(self, run: TrackedRun) -> None:
        """Begin or continue the training run. The other methods are called after this one."""

    def add(self, values: Mapping[str, float], axis: Axis, position: int) -> None:
        """Add a point of several curves, at an epoch or at a step."""

    def add_images(self, images: Mapping[str, np.ndarray], epoch: int) -> None:
        """Add images uint8 [H, W, 3] in RGB by name."""

    def rewind(self, step: int) -> None:
        """Receive that the steps after `step` are made again."""

    def end(self, summary: Mapping[str, float], verdict: Verdict | None) -> None:
        """End with the final values; verdict None: the training run may be resumed."""


def new_id() -> str:
    """Return an id that no other training run has."""
    return uuid.uuid4().hex[:16]


def as_hyperparameter(value: Any) -> Hyperparameter:
    """Return a value of a setting as trackers take it: lists and null as text."""
    if isinstance(value, bool | int | float | str):
        return value
    return json.dumps(value)
