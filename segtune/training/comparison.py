"""What the best trial of a search and the config itself predict on the validation images.

Writes the pictures of the report and the best trial's confusion matrix. Trains nothing.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from segtune.config.schema import ExperimentConfig, load_config
from segtune.data.layouts import class_names
from segtune.data.loader import ValLoader
from segtune.errors import CheckpointError, SegtuneError
from segtune.metrics import ConfusionMatrix
from segtune.runs.atomic import write_atomic
from segtune.runs.results import TrialResult, best_trial, read_trials
from segtune.runs.rundir import SearchDir
from segtune.training.distributed import Ranks
from segtune.training.evaluation import autocast_dtype, predictions
from segtune.training.label_images import colours_of_classes
from segtune.training.locate import find_checkpoint
from segtune.training.prediction import load_model
from segtune.training.tta import AugmentedInference

log = logging.getLogger(__name__)

# The longer side of a picture, in pixels. A report with six rows of four stays below 300 kB.
SIDE = 256
JPEG_QUALITY = 80
# Of the pictures, this share shows where the best trial gains most; the rest, where it loses most.
GAIN_SHARE = 2 / 3
IGNORED = (255, 255, 255)


@dataclass(frozen=True)
class Predicted:
    """The prediction of one image; the pictures have at most SIDE pixels on their longer side."""

    name: str
    accuracy: float  # fraction of the valid pixels that are correct, in 0..1
    image: np.ndarray  # uint8 [h, w, 3]
    truth: np.ndarray  # [h, w]
    labels: np.ndarray  # [h, w]


@dataclass(frozen=True)
class Packed:
    """What is kept of a prediction of every validation image: some kB, not half a megabyte."""

    accuracy: float
    png: np.ndarray  # the labels

    @classmethod
    def of(cls, predicted: Predicted) -> Packed:
        """Pack a prediction."""
        return cls(predicted.accuracy, _encoded(predicted.labels, ".png"))

    def unpacked(self, other: Predicted) -> Predicted:
        """Return the prediction; `other` is a prediction of the same image."""
        labels = cv2.imdecode(self.png, cv2.IMREAD_UNCHANGED)
        return replace(other, accuracy=self.accuracy, labels=labels)


@dataclass(frozen=True)
class Compared:
    """The prediction of the best trial, and that of the config itself if it has a checkpoint."""

    best: Predicted
    baseline: Predicted | None

    @property
    def gain(self) -> float:
        """By how much more of the pixels the best trial is correct, in -1..1."""
        return self.best.accuracy - (self.baseline.accuracy if self.baseline else 1.0)


def comparison_is_due(run: SearchDir) -> bool:
    """Whether the best trial has a checkpoint that the record of the pictures does not show."""
    best = best_trial(read_trials(run))
    if best is None:
        return False
    record = run.read_pictures() or {}
    try:
        return record.get("best") != _described(run, best)
    except CheckpointError:
        return False


def write_comparison(run: SearchDir, num_pictures: int, cpus: float | None = None) -> None:
    """Predict the validation images, and write the pictures and the confusion matrix.

    Each model predicts every image once. If the data or a checkpoint of the best trial are not
    there, the record says so, and pictures of an earlier call are kept. `cpus` is the share of the
    cores, as in `ValLoader`.
    """
    trials = read_trials(run)
    best = best_trial(trials)
    if best is None:
        return
    try:
        _write(run, best, trials[0], num_pictures, cpus)
    except SegtuneError as error:
        log.warning("no pictures in the report: %s", error)
        record = run.read_pictures() or {}
        note = {"note": f"they could not be drawn again: {error}"}
        _write_record(run, record | note if "images" in record else {"problem": str(error)})


def _write(
    run: SearchDir, best: TrialResult, baseline: TrialResult, num: int, cpus: float | None
) -> None:
    device = Ranks.join().device
    record: dict[str, Any] = {"best": _described(run, best), "baseline": None, "note": ""}
    earlier: dict[str, Packed] = {}
    if baseline.number == 0 and baseline.number != best.number:
        try:
            record["baseline"] = _described(run, baseline)
            model, config = _load(run, baseline, device)
            earlier = {p.name: Packed.of(p) for p in _predicted(model, config, device, cpus)}
        except CheckpointError as error:
            record |= {"baseline": None, "note": f"no prediction of trial 0: {error}"}
    model, config = _load(run, best, device)
    names = class_names(config.data)
    matrix = ConfusionMatrix(len(names), config.data.ignore_index)
    chosen = Chosen(num)
    for predicted in _predicted(model, config, device, cpus, matrix):
        packed = earlier.pop(predicted.name, None)
        chosen.add(Compared(predicted, packed.unpacked(predicted) if packed else None))
    colours = colours_of_classes(config.data, names, len(names))
    _write_pictures(run, chosen.rows(), colours, config.data.ignore_index, record)
    counts = matrix.matrix.cpu().tolist()
    confusion = {**record["best"], "classes": list(names), "matrix": counts}
    write_atomic(run.confusion, json.dumps(confusion) + "\n")
    record["classes"] = [
        {"name": name, "colour": "#{:02x}{:02x}{:02x}".format(*map(int, colour))}
        for name, colour in zip(names, colours, strict=True)
    ]
    _write_record(run, record)


class Chosen:
    """The images with the largest gains and the largest losses, of all that were added."""

    def __init__(self, number: int) -> None:
        self._num_gains = -int(-number * GAIN_SHARE)
        self._number = number
        self._gains: list[Compared] = []
        self._losses: list[Compared] = []

    def add(self, compared: Compared) -> None:
        """Take an image. Only those that may still be chosen stay in memory."""
        self._gains = sorted([*self._gains, compared], key=lambda c: -c.gain)[: self._number]
        self._losses = sorted([*self._losses, compared], key=lambda c: c.gain)[: self._number]

    def rows(self) -> list[Compared]:
        """Return the chosen images, the largest gain first.

        Without predictions of the config itself, these are the least accurate ones.
        """
        if any(c.baseline is None for c in self._losses):
            return self._losses
        gains = self._gains[: self._num_gains]
        losses = [c for c in self._losses if c not in gains][: self._number - len(gains)]
        return gains + losses[::-1]


def _described(run: SearchDir, trial: TrialResult) -> dict[str, str]:
    checkpoint = find_checkpoint(run.trial(trial.number).path)
    return {"trial": trial.id, "checkpoint": checkpoint.name}


def _load(
    run: SearchDir, trial: TrialResult, device: torch.device
) -> tuple[torch.nn.Module, ExperimentConfig]:
    folder = run.trial(trial.number)
    # Not the config in the checkpoint, whose own code would be refused: the user may search it.
    model, config, _ = load_model(folder.path, load_config(folder.config), device)
    return model, config


def _predicted(
    model: torch.nn.Module,
    config: ExperimentConfig,
    device: torch.device,
    cpus: float | None,
    matrix: ConfusionMatrix | None = None,
) -> Iterator[Predicted]:
    """Yield the prediction of each validation image, and count it in `matrix`."""
    precision = autocast_dtype(config.optim.precision, device)
    num_classes = len(class_names(config.data))
    views = AugmentedInference.of(config)
    batches = ValLoader(config, 0, 1, cpus=cpus)
    for batch, labels, masks in predictions(model, batches, device, num_classes, precision, views):
        if matrix:
            matrix.update(labels, masks)
        for i, name in enumerate(batch.names):
            valid = masks[i] != config.data.ignore_index
            correct = int(((labels[i] == masks[i]) & valid).sum())
            accuracy = correct / max(1, int(valid.sum()))
            image = batch.images[i].permute(1, 2, 0).contiguous().numpy()
            truth, predicted = small_labels(masks[i]), small_labels(labels[i])
            yield Predicted(name, accuracy, _small(image, truth.shape), truth, predicted)


def small_labels(labels: Tensor) -> np.ndarray:
    """Return labels [H, W] with at most SIDE pixels on the longer side, uint16."""
    array = labels.cpu().numpy().astype(np.uint16)
    factor = min(1.0, SIDE / max(array.shape))
    height, width = (max(1, round(side * factor)) for side in array.shape)
    return cv2.resize(array, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def _small(image: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    shrinks = shape[0] < image.shape[0]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (shape[1], shape[0]), interpolation=how)


def _write_pictures(
    run: SearchDir,
    rows: Sequence[Compared],
    colours: np.ndarray,
    ignore_index: int,
    record: dict[str, Any],
) -> None:
    """Replace the pictures, and describe them in the record."""
    shutil.rmtree(run.pictures, ignore_errors=True)
    run.pictures.mkdir(parents=True)
    record["images"] = []
    for number, row in enumerate(rows):
        masks = {"truth": row.best.truth, "best": row.best.labels}
        if row.baseline:
            masks["baseline"] = row.baseline.labels
        _encode(run.pictures / f"{number:02d}-image.jpg", row.best.image)
        for kind, labels in masks.items():
            drawn = _coloured(labels, row.best.truth, colours, ignore_index)
            _encode(run.pictures / f"{number:02d}-{kind}.png", drawn)
        record["images"].append(
            {
                "name": os.fspath(row.best.name),
                "best": row.best.accuracy,
                "baseline": row.baseline.accuracy if row.baseline else None,
                "files": [f"{number:02d}-image.jpg", *(f"{number:02d}-{k}.png" for k in masks)],
            }
        )


def _coloured(
    labels: np.ndarray, truth: np.ndarray, colours: np.ndarray, ignore_index: int
) -> np.ndarray:
    """Return labels in the colours of their classes; pixels that are ignored are white."""
    drawn = colours[np.minimum(labels, len(colours) - 1)]
    if truth.shape == labels.shape:
        drawn[truth == ignore_index] = IGNORED
    return drawn


def _encode(path: Path, rgb: np.ndarray) -> None:
    write_atomic(path, _encoded(np.ascontiguousarray(rgb[..., ::-1]), path.suffix).tobytes())


def _encoded(array: np.ndarray, suffix: str) -> np.ndarray:
    """Return an array of uint8, or uint16 for a PNG, as the bytes of a file."""
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if suffix == ".jpg" else []
    done, data = cv2.imencode(suffix, array, options)
    assert done, "OpenCV encodes every such array"
    return data


def _write_record(run: SearchDir, record: dict[str, Any]) -> None:
    # Last: a record names only pictures that are there.
    write_atomic(run.pictures / "pictures.json", json.dumps(record, indent=1) + "\n")
