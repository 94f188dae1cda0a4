"""The model that is exported: which checkpoint a path stands for, and what is known of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from segtune.config.schema import ExperimentConfig
from segtune.errors import CheckpointError, RunError
from segtune.models.segmentation_model import SegmentationModel
from segtune.runs.chosen_trial import choose_trial, open_chosen
from segtune.runs.results import BAD_ENDS
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.training import checkpoint
from segtune.training.label_images import colours_of_classes
from segtune.training.locate import find_checkpoint
from segtune.training.prediction import load_model, names_in

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportSource:
    """A trained model on the CPU in evaluation mode, its config, and where it comes from."""

    model: SegmentationModel
    config: ExperimentConfig
    checkpoint: Path
    manifest: checkpoint.Manifest
    classes: tuple[str, ...]  # in the order of their labels
    palette: np.ndarray  # a colour for each class, uint8 [C, 3] in RGB

    @property
    def training_run(self) -> TrialDir | None:
        """The training run that has written the checkpoint; None if it was copied elsewhere."""
        folder = TrialDir(self.checkpoint.absolute().parent.parent)
        is_inside = self.checkpoint.absolute().parent == folder.checkpoints
        return folder if is_inside and folder.config.is_file() else None


def open_source(
    path: Path,
    trial: int | None = None,
    config: ExperimentConfig | None = None,
    overrides: Sequence[str] = (),
) -> ExportSource:
    """Return the model that `path` stands for, or that of trial number `trial` of a search run.

    `path`, `config` and `overrides` are as in `load_model`. Raise CheckpointError if there is no
    checkpoint or its weights are not finite, and RunError for a training run that ended unhealthy
    or failed, unless `path` is one of its checkpoints.
    """
    folder = _checkpoint_of(path, trial)
    model, config, folder = load_model(folder, config, torch.device("cpu"), overrides)
    assert isinstance(model, SegmentationModel)
    _check_finite(model, folder)
    manifest = checkpoint.verify(folder, weights_only=True)
    num_classes = _num_classes(model)
    names = checkpoint.class_names_in(manifest) or names_in(config)
    if len(names) != num_classes:  # an early checkpoint, and the file with the names is gone
        names = tuple(f"class {label}" for label in range(num_classes))
    palette = colours_of_classes(config.data, names, num_classes)
    return ExportSource(model, config, folder, manifest, names, palette)


def _checkpoint_of(path: Path, trial: int | None) -> Path:
    """Return the checkpoint to export. Raise RunError if its training run ended badly."""
    if trial is not None:
        run, number = open_chosen(path, trial, "export")
        path = run.trial(choose_trial(run, number, "exports").number).path
    folder = find_checkpoint(path)
    if trial is None and checkpoint.newest_best(SearchDir(path).retrained.checkpoints):
        retrained = SearchDir(path).retrained.path
        log.info("%s: holds the winner of this search, retrained; export it by its name", retrained)
    training_run = TrialDir(folder.absolute().parent.parent)
    verdict = training_run.read_verdict()
    if verdict and verdict.state in BAD_ENDS:
        how = f"{training_run.path}: ended {verdict.state}: {verdict.reason}"
        if path.absolute() in (training_run.path, training_run.checkpoints):
            raise RunError(
                f"{how}; its model is not exported. To export it all the same, name the "
                f"checkpoint: {folder}"
            )
        log.warning("%s", how)
    if folder.name.startswith("last-"):
        log.warning("%s: no validation has chosen this checkpoint, it is only the last", folder)
    return folder


def _check_finite(model: SegmentationModel, folder: Path) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{folder}: {name} has values that are not finite (NaN or infinite), so the model "
                "predicts nothing; export an earlier checkpoint or another trial"
            )


@torch.no_grad()
def _num_classes(model: SegmentationModel) -> int:
    return model(torch.zeros(1, 3, 64, 64)).shape[1]
