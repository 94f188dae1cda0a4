"""A training run in Weights & Biases (extra `wandb`); WANDB_MODE=offline keeps it on this disk."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from segtune.runs.verdict import Verdict
from segtune.tracking.tracker import Axis, TrackedRun, Tracker, new_id

log = logging.getLogger(__name__)

NAME = "wandb"
# Curves by the first part of their names that count epochs; all others count steps.
EPOCH_CURVES = ("train", "val", "class_iou", "images", "final")


class WandbRun(Tracker):
    """Passes a training run on to Weights & Biases, as one run of it.

    A run of Weights & Biases has a step of its own that never goes back. segtune's curves therefore
    have `step` or `epoch` as their x axis, and a resumed training run draws over its past.
    """

    def begin(self, run: TrackedRun) -> None:
        """Begin a run, or continue it after a resume. Trials of a search are a group."""
        import wandb

        identifier = run.tracker_id(NAME) or new_id()
        self._run = wandb.init(
            project=run.config.log.project,
            group=run.group or None,
            name=run.name,
            id=identifier,
            resume="allow",
            dir=str(run.out.path),
            config=run.settings,
            job_type="trial" if run.group else "train",
            reinit="create_new",  # several trials share a process
            # The terminal belongs to segtune.
            settings=wandb.Settings(silent=True, console="off"),
        )
        run.keep_tracker_id(NAME, identifier)
        self._run.define_metric("*", step_metric="step")
        for first in EPOCH_CURVES:
            self._run.define_metric(f"{first}/*", step_metric="epoch")
        self._run.summary.update({f"hparams/{k}": v for k, v in run.hyperparameters.items()})
        where = self._run.url if not self._run.offline else f"offline in {self._run.dir}"
        log.info("wandb: %s", where)

    def add(self, values: Mapping[str, float], axis: Axis, position: int) -> None:
        """Add a point of several curves."""
        self._run.log({**values, axis: position})

    def add_images(self, images: Mapping[str, np.ndarray], epoch: int) -> None:
        """Add images by name."""
        import wandb

        pictures = {name: wandb.Image(image, caption=name) for name, image in images.items()}
        self._run.log({**pictures, "epoch": epoch})

    def end(self, summary: Mapping[str, float], verdict: Verdict | None) -> None:
        """Add the final values and end the run: its exit code is 0 if training completed."""
        self._run.summary.update(dict(summary))
        if verdict:
            self._run.summary.update({"state": verdict.state, "reason": verdict.reason})
        has_failed = verdict is not None and verdict.state != "completed"
        self._run.finish(exit_code=int(has_failed))
