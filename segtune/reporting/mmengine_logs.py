"""The JSON logs of mmengine and of mmsegmentation 0.x: which files there are, and their lines.

Both have one JSON object per line. Formats, from mmengine's LoggerHook, LogProcessor and
LocalVisBackend, and from mmcv 1.x's TextLoggerHook:

- `WORK_DIR/TIMESTAMP/vis_data/scalars.json` (mmengine). Training lines have `iter`, the number of
  steps so far; `epoch`, from 1, if the log counts epochs; and `time`, the seconds per step. Lines
  of a validation have no `iter`. Their `step` is the epoch or the number of steps. Scores are in
  per cent.
- `WORK_DIR/TIMESTAMP.log.json` (0.x). Lines have a `mode`. `iter` begins anew in each epoch if the
  run counts epochs; in lines of a validation it may be the number of images. Scores are in 0..1.

`log_curves.py` makes curves from the lines.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segtune.errors import RunError
from segtune.reporting.curves import CLASS_SCORES, SCORES, STEP_SECONDS, is_number, is_score

log = logging.getLogger(__name__)

# Numbers that say where a line belongs, and that are no curves.
POSITIONS = ("iter", "epoch", "step")


@dataclass(frozen=True)
class LogLine:
    """One line: where it was written, and its numbers by segtune's keys."""

    validates: bool
    count: float | None  # `iter` of a training line, `step` of a validation
    epoch: float | None
    values: dict[str, float]  # may be NaN or infinite


@dataclass(frozen=True)
class LogFile:
    """The lines of one start of a training run."""

    path: Path
    lines: Sequence[LogLine]
    counts_in_epoch: bool = False  # `iter` begins anew in each epoch

    @property
    def training(self) -> list[LogLine]:
        """The training lines."""
        return [line for line in self.lines if not line.validates]


def find_logs(path: Path) -> list[Path]:
    """Return the log files that a path of the user stands for, oldest first; empty if none.

    `path` is a file, the folder `vis_data`, the folder of one start, or a work_dir, which has one
    log for each start.
    """
    if path.is_file():
        return [path] if path.suffix == ".json" else []
    for pattern in ("scalars.json", "vis_data/scalars.json", "*/vis_data/scalars.json"):
        if found := list(path.glob(pattern)):
            return sorted(found)
    return sorted(path.glob("*.log.json"))


def work_dir_of(path: Path) -> Path:
    """Return the work_dir of a log file, or the folder of its start if it may be of several."""
    folder = path.absolute().parent
    return folder.parent if folder.name == "vis_data" else folder


def read_log(path: Path) -> LogFile:
    """Return the lines of a log. Raise RunError if the file holds no line of a training run."""
    rows = _rows(path)
    has_mode = any("mode" in row for row in rows)
    scale = _score_scale(path, rows, has_mode)
    # The first line of mmcv describes the machine and has no `mode`.
    marks = ("mode",) if has_mode else ("iter", "step")
    lines = [_line(row, has_mode, scale) for row in rows if any(mark in row for mark in marks)]
    lines = [line for line in lines if line.values]
    if not lines:
        raise RunError(
            f"{path}: no log of a training run: expected one JSON object per line with iter, loss "
            "and so on, as in vis_data/scalars.json of mmengine and *.log.json of mmsegmentation "
            "0.x; a run that has just begun has no line yet"
        )
    return LogFile(path, lines, has_mode and _begins_anew(lines))


def _rows(path: Path) -> list[dict[str, Any]]:
    """Return the JSON objects of a file. Other lines are left out, which is logged."""
    rows: list[dict[str, Any]] = []
    bad: list[int] = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line) if line.strip() else {}
        except ValueError:
            bad.append(number)
            continue
        if isinstance(row, dict):
            rows.append(row)
    if bad == [len(lines)]:
        log.info("%s: the last line is incomplete (interrupted, or being written): left out", path)
    elif bad and rows:
        log.warning("%s: left out, because no JSON: line %d (%d in total)", path, bad[0], len(bad))
    return rows


def _is_validation(row: dict[str, Any], has_mode: bool) -> bool:
    if not has_mode:
        return "iter" not in row
    # mmcv writes `"mode": "train"` for a validation that has no `time`.
    has_scores = any(is_score(_key(name)) for name in row)
    return row.get("mode") == "val" or (has_scores and "loss" not in row)


def _line(row: dict[str, Any], has_mode: bool, scale: float) -> LogLine:
    validates = _is_validation(row, has_mode)
    values: dict[str, float] = {}
    for name, value in row.items():
        is_real = isinstance(value, int | float) and not isinstance(value, bool)
        if name in POSITIONS or not is_real:
            continue
        key = _key(name)
        if is_score(key):
            values[key] = value * scale
        elif not validates:
            values[key] = value
        elif name not in ("lr", "memory"):
            values[f"val.{key}"] = value
    count = row.get("step" if validates and not has_mode else "iter")
    epoch = row.get("epoch")
    return LogLine(
        validates,
        count if is_number(count) else None,
        epoch if is_number(epoch) and (has_mode or not validates) else None,
        values,
    )


def _key(name: str) -> str:
    """Return segtune's key for a name in a log: mIoU is miou, IoU.road is iou.road."""
    # Prefixes of a LogProcessor with `log_with_hierarchy=True`.
    name = name.removeprefix("train/").removeprefix("val/")
    if name == "time":
        return STEP_SECONDS
    folder, slash, last = name.rpartition("/")
    head, dot, tail = last.partition(".")
    if last.casefold() in SCORES or head.casefold() in CLASS_SCORES:
        last = head.casefold() + dot + tail
    return folder + slash + last


def _score_scale(path: Path, rows: Sequence[dict[str, Any]], has_mode: bool) -> float:
    """Return the factor that brings the scores of a file to 0..1.

    mmsegmentation 1.x writes per cent, 0.x fractions. A value above 1 is certainly per cent. In a
    log of mmengine without any, fractions are assumed only if an accuracy of all pixels is among
    them: a first mIoU below 1 % is common, for example with 150 classes, but an aAcc below 1 %
    in every validation is not.
    """
    scores = [
        (_key(name), value)
        for row in rows
        for name, value in row.items()
        if is_score(_key(name)) and is_number(value)
    ]
    highest = max((value for _, value in scores), default=0.0)
    if highest > 1:
        return 0.01
    has_accuracy = any(key == "aacc" and value > 0 for key, value in scores)
    if has_mode or has_accuracy or not scores:
        return 1.0
    log.warning(
        "%s: all scores are at most %.3g; read as per cent, as mmsegmentation 1.x writes them",
        path,
        highest,
    )
    return 0.01


def _begins_anew(lines: Sequence[LogLine]) -> bool:
    """Whether `iter` begins anew in each epoch."""
    training = [line for line in lines if not line.validates and line.count and line.epoch]
    return any(
        (after.epoch or 0) > (before.epoch or 0) and (after.count or 0) <= (before.count or 0)
        for before, after in itertools.pairwise(training)
    )


def is_finite(line: LogLine) -> bool:
    """Whether the total loss of a line is finite, or absent."""
    return math.isfinite(line.values.get("loss", 0.0))
