"""The curves of training runs, as numbers. Reads the folders of segtune; draws nothing.

Logs of mmengine and mmsegmentation are read by `mmengine_logs.py`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from segtune.errors import SegtuneError
from segtune.runs.records import EpochRecord
from segtune.runs.results import RUNNING
from segtune.runs.rundir import TrialDir
from segtune.runs.verdict import OUTRANKED

Axis = Literal["epoch", "step", "time"]
# Keys that are scores in 0..1: drawn as percentages, and better if higher.
SCORES = ("miou", "constant_miou", "macc", "aacc", "mdice", "mfscore", "mprecision", "mrecall")
CLASS_SCORES = ("iou", "acc", "dice", "fscore", "precision", "recall")
# Seconds per training step; mmengine calls it `time`.
STEP_SECONDS = "step_seconds"
# Fields of a record that are no curves. `init_miou` is one number.
NO_CURVES = ("epoch", "step", "ended", "init_miou", "class_iou")


@dataclass(frozen=True)
class Point:
    """A value and where it was measured; None: the log does not say it."""

    value: float  # finite; scores in 0..1
    epoch: float | None = None
    step: float | None = None
    seconds: float | None = None  # of training so far

    def at(self, axis: Axis) -> float | None:
        """Return the position on an axis."""
        match axis:
            case "epoch":
                return self.epoch
            case "step":
                return self.step
            case "time":
                return self.seconds


@dataclass(frozen=True)
class Stretch:
    """Consecutive training steps that were timed together."""

    epoch: int | None
    num_steps: float
    seconds: float
    with_validation: bool = False  # whether `seconds` includes a validation


@dataclass(frozen=True)
class RunCurves:
    """One training run: a series of points for each key, its timing, and how it ended."""

    name: str
    path: Path
    series: Mapping[str, Sequence[Point]]
    stretches: Sequence[Stretch] = ()
    seconds: float | None = None  # in total
    with_validation: bool = True  # whether `seconds` includes the validations
    state: str = ""  # of the verdict, or "running"; "": the log does not say it
    kind: str = ""
    reason: str = ""
    last: Point = field(default_factory=lambda: Point(0.0))  # where the run ends, so far

    @property
    def went_wrong(self) -> bool:
        """Whether the run ended by a fault of its config, of the machine or of the code."""
        return self.state in ("unhealthy", "failed")

    @property
    def ending(self) -> str:
        """How the run ended, in words; empty if it is complete or if this is not known."""
        if self.state in ("", "completed"):
            return ""
        if self.state == RUNNING:
            return "running, or killed"  # neither has a verdict
        return f"{self.state}: {self.kind}" if self.kind else self.state


def last_part(key: str) -> str:
    """Return a key without the name of a data set: `city/miou` is a mIoU."""
    return key.rpartition("/")[2]


def is_score(key: str) -> bool:
    """Whether the values of a key are scores in 0..1."""
    name = last_part(key)
    return name in SCORES or name.partition(".")[0] in CLASS_SCORES


def direction(key: str) -> Literal["max", "min"] | None:
    """Return which value of a key is the best, or None for keys such as the learning rate."""
    if is_score(key) or key.endswith("acc_seg"):
        return "max"
    return "min" if "loss" in key else None


def best_point(key: str, points: Sequence[Point]) -> Point:
    """Return the best point of a series, the first of several; the last if there is no best."""
    match direction(key):
        case "max":
            return max(points, key=lambda point: point.value)
        case "min":
            return min(points, key=lambda point: point.value)
        case None:
            return points[-1]


def read_training_run(trial: TrialDir, name: str) -> RunCurves:
    """Return the curves of a training run or a trial of segtune, also while it is running."""
    verdict = trial.read_verdict()
    # The workers of a stopped trial may train on until they notice it, see `validated_epochs`.
    is_outranked = verdict is not None and verdict.state in OUTRANKED
    records = trial.read_epochs(verdict.epoch if verdict and is_outranked else math.inf)
    stretches = list(_stretches(records))
    return RunCurves(
        name=name,
        path=trial.path,
        series=_series(records, stretches, _class_names(trial, records)),
        stretches=stretches,
        seconds=records[-1].seconds or None if records else None,
        state=verdict.state if verdict else RUNNING,
        kind=verdict.kind if verdict else "",
        reason=verdict.reason if verdict else "",
        last=_point(records[-1], 0.0) if records else Point(0.0),
    )


def _point(record: EpochRecord, value: float) -> Point:
    # 0 in the files of early versions, which did not write these.
    return Point(value, record.epoch, record.step or None, record.seconds or None)


def _series(
    records: Sequence[EpochRecord], stretches: Sequence[Stretch], names: Sequence[str]
) -> dict[str, list[Point]]:
    series: dict[str, list[Point]] = {}
    for record in records:
        for key, value in _values(record, names):
            series.setdefault(key, []).append(_point(record, value))
    for record, stretch in zip(records, stretches, strict=True):
        if stretch.num_steps and stretch.seconds > 0:
            value = stretch.seconds / stretch.num_steps
            series.setdefault(STEP_SECONDS, []).append(_point(record, value))
    return series


def _values(record: EpochRecord, names: Sequence[str]) -> Iterable[tuple[str, float]]:
    """Yield (key, value) of all numbers of an epoch."""
    for key, value in record.to_row().items():
        if key in record.losses:
            key = key if key == "loss" else f"loss.{key}"
        if key not in NO_CURVES and is_number(value):
            yield key, float(value)
    if record.validation:
        for name, iou in zip(names, record.validation.class_iou, strict=False):
            if iou is not None:
                yield f"iou.{name}", iou


def is_number(value: Any) -> bool:
    """Whether a value of a JSON object is a finite number."""
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def _stretches(records: Sequence[EpochRecord]) -> Iterable[Stretch]:
    """Yield the time of each epoch."""
    previous = EpochRecord(epoch=0)
    for record in records:
        seconds, steps = record.seconds - previous.seconds, record.step - previous.step
        yield Stretch(record.epoch, steps, seconds, record.validation is not None)
        previous = record


def _class_names(trial: TrialDir, records: Sequence[EpochRecord]) -> Sequence[str]:
    """Return the names of the classes; numbers if this machine has no such data set."""
    from segtune.config.schema import load_config
    from segtune.data.layouts import class_names

    num_classes = max((len(r.validation.class_iou) for r in records if r.validation), default=0)
    if num_classes and trial.config.is_file():
        with contextlib.suppress(SegtuneError, OSError, UnicodeError):
            names = class_names(load_config(trial.config).data)
            if len(names) == num_classes:
                return names
    return [str(label) for label in range(num_classes)]
