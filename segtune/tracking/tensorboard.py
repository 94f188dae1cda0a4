"""The curves and images of a training run for TensorBoard. Reads nothing back.

Curves over epochs lie in the folder `tb`, those over optimiser steps in `tb/steps`: TensorBoard
shows them as two runs. A resume hides the points after its checkpoint, and one folder can only
count either epochs or steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import SummaryWriter

from segtune.runs.rundir import TrialDir
from segtune.runs.verdict import Verdict
from segtune.tracking.tracker import Axis, TrackedRun, Tracker

FLUSH_S = 10
# The scores of the HParams page.
SCORES = ("final/best_miou", "val/miou", "train/loss")
# One chart with a line for each class, and one with a line for each loss term.
CHARTS = {
    "classes": {"IoU of each class": ["Multiline", ["class_iou/.*"]]},
    "losses": {"loss and its terms": ["Multiline", ["loss/.*"]]},
}


class TensorBoard(Tracker):
    """Writes the event files of one training run.

    TensorBoard hides later epochs and steps that were in the folders before: those after the
    checkpoint of a resume, and those of a training run that was replaced.
    """

    def begin(self, run: TrackedRun) -> None:
        """Open the event files, and describe the training run for the HParams page."""
        self._out: TrialDir = run.out
        self._epochs = _writer(run.out, "epoch", run.epoch)
        self._steps = _writer(run.out, "step", run.step)
        self._epochs.add_custom_scalars(CHARTS)
        scores = dict.fromkeys(SCORES, 0.0)
        experiment, start, self._end = hparams(dict(run.hyperparameters), scores)
        self._add_summaries(experiment, start)
        self._epoch = run.epoch

    def add(self, values: Mapping[str, float], axis: Axis, position: int) -> None:
        """Add a point of several curves."""
        writer = self._epochs if axis == "epoch" else self._steps
        for name, value in values.items():
            writer.add_scalar(name, value, position)
        if axis == "epoch":
            self._epoch = position
            writer.flush()

    def add_images(self, images: Mapping[str, np.ndarray], epoch: int) -> None:
        """Add images by name."""
        for name, image in images.items():
            self._epochs.add_image(name, image, epoch, dataformats="HWC")

    def rewind(self, step: int) -> None:
        """Hide the steps after `step`."""
        self._steps.close()
        self._steps = _writer(self._out, "step", step)

    def end(self, summary: Mapping[str, float], verdict: Verdict | None) -> None:
        """Write the final values, and close the files."""
        for name, value in summary.items():
            self._epochs.add_scalar(name, value, self._epoch)
        if verdict:
            self._epochs.add_text("verdict", f"{verdict.state} {verdict.reason}".strip())
        if verdict and verdict.state == "completed":
            self._add_summaries(self._end)
        self._steps.close()
        self._epochs.close()

    def _add_summaries(self, *summaries: Any) -> None:
        file = self._epochs.file_writer
        assert file is not None
        for summary in summaries:
            file.add_summary(summary)


def _writer(out: TrialDir, axis: Axis, last: int) -> SummaryWriter:
    """Return a writer that hides what its folder has after position `last`."""
    folder = out.tensorboard if axis == "epoch" else out.tensorboard_steps
    return SummaryWriter(str(folder), purge_step=last + 1, flush_secs=FLUSH_S)
