"""Curves from the logs of mmengine and mmsegmentation: starts joined, positions on all axes."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segtune.errors import RunError, first_of
from segtune.reporting.curves import STEP_SECONDS, Point, RunCurves, Stretch
from segtune.reporting.mmengine_logs import LogFile, LogLine, is_finite, read_log

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Placed:
    """A line with the number of training steps before its values, and its epoch if known."""

    line: LogLine
    step: float
    epoch: float | None


def read_logs(paths: Sequence[Path], name: str, folder: Path) -> RunCurves:
    """Return the curves of one training run from the logs of its starts, oldest first.

    A start that goes on from a checkpoint is joined: it replaces what it repeats. A start from the
    first step replaces the earlier ones, which is logged.
    """
    files = _readable(paths)
    per_epoch = _steps_per_epoch(files)
    lines = _joined([(file.path, _place(file, per_epoch)) for file in files], folder)
    return _curves(lines, name, folder)


def _readable(paths: Sequence[Path]) -> list[LogFile]:
    """Read the logs. A work_dir may also hold starts without a step, which are left out."""
    files: list[LogFile] = []
    problems: list[str] = []
    for path in paths:
        try:
            files.append(read_log(path))
        except RunError as error:
            problems.append(str(error))
    with_steps = [file for file in files if file.training]
    if not files:
        raise RunError(problems[-1])
    return with_steps or files[-1:]


def _steps_per_epoch(files: Sequence[LogFile]) -> int | None:
    """Return the steps of an epoch, or None if the logs do not count epochs.

    A lower bound: the last steps of an epoch may have no line. In epoch e, at most e times as many
    steps have been made.
    """
    bounds = [
        line.count if file.counts_in_epoch else line.count / line.epoch
        for file in files
        for line in file.training
        if line.count and line.epoch
    ]
    return math.ceil(max(bounds)) if bounds else None


def _place(file: LogFile, per_epoch: int | None) -> list[_Placed]:
    """Return the lines of a file with their steps and epochs."""
    last_epoch = max((line.epoch or 0 for line in file.training), default=0)
    last_count = max((line.count or 0 for line in file.lines if line.validates), default=0)
    # mmengine's LoggerHook writes the epoch with `log_metric_by_epoch`, otherwise the step.
    validates_by_epoch = bool(per_epoch) and last_count <= last_epoch
    placed: list[_Placed] = []
    current = _Placed(LogLine(False, 0, None, {}), 0.0, None)
    for line in file.lines:
        if not line.validates:
            current = _place_training(line, file, per_epoch)
            placed.append(current)
        elif line.count and not line.epoch and validates_by_epoch:
            placed.append(_Placed(line, line.count * (per_epoch or 1), line.count))
        else:
            placed.append(_place_validation(line, file, current, per_epoch))
    return placed


def _place_training(line: LogLine, file: LogFile, per_epoch: int | None) -> _Placed:
    step = line.count or 0.0
    if file.counts_in_epoch and line.epoch and per_epoch:
        step += (line.epoch - 1) * per_epoch
    if not (line.epoch and per_epoch):
        return _Placed(line, step, None)
    # `per_epoch` is a lower bound, but the line says which epoch it is.
    return _Placed(line, step, min(max(step / per_epoch, line.epoch - 1), line.epoch))


def _place_validation(
    line: LogLine, file: LogFile, current: _Placed, per_epoch: int | None
) -> _Placed:
    """Place a validation by its step, or after the last training line `current`."""
    if file.counts_in_epoch and line.epoch and per_epoch:
        return _Placed(line, line.epoch * per_epoch, line.epoch)
    # In logs of 0.x, `iter` may be a number of images. Early mmengine writes 0.
    is_step = line.epoch is None and (line.count or 0) >= current.step
    step = (line.count or 0) if is_step else current.step
    if current.epoch is None or not per_epoch:
        return _Placed(line, step, None)
    limit = current.line.epoch or 0
    return _Placed(line, step, min(max(step / per_epoch, current.epoch), limit))


def _joined(starts: Sequence[tuple[Path, Sequence[_Placed]]], folder: Path) -> list[_Placed]:
    """Return the lines of the newest training run among the starts, in order."""
    joined: list[_Placed] = []
    used: list[Path] = []
    replaced: list[Path] = []
    for path, lines in starts:
        steps = [placed.step for placed in lines if not placed.line.validates]
        if used and steps and _goes_on(steps, joined):
            joined = [placed for placed in joined if placed.step < steps[0]]
            used.append(path)
        else:
            replaced += used
            joined, used = [], [path]
        joined += lines
    if len(used) > 1:
        text = "%s: joined the logs of %d starts; a later one replaces what it repeats"
        log.info(text, folder, len(used))
    if replaced:
        names = first_of([str(path) for path in replaced], 3)
        text = (
            "%s: training began anew in %s; earlier logs are left out (%d): %s; to draw one of "
            "them, use its path"
        )
        log.warning(text, folder, used[0], len(replaced), names)
    return joined


def _goes_on(steps: Sequence[float], earlier: Sequence[_Placed]) -> bool:
    """Whether a start goes on from a checkpoint: its first line is not the first of a run."""
    if len(steps) == 1:  # the first line of a run is as far as one interval
        return steps[0] > min(placed.step for placed in earlier if not placed.line.validates)
    return steps[0] > steps[1] - steps[0]


def _curves(lines: Sequence[_Placed], name: str, folder: Path) -> RunCurves:
    series: dict[str, list[Point]] = {}
    stretches: list[Stretch] = []
    seconds, before = 0.0, _first_step_before(lines)
    for placed in lines:
        pace = placed.line.values.get(STEP_SECONDS)
        if not placed.line.validates:
            if pace is not None and math.isfinite(pace) and placed.step > before:
                num_steps = placed.step - before
                stretches.append(Stretch(_whole(placed.line.epoch), num_steps, pace * num_steps))
                seconds += pace * num_steps
            before = max(before, placed.step)
        place = Point(0.0, placed.epoch, placed.step, seconds if stretches else None)
        for key, value in placed.line.values.items():
            if math.isfinite(value):
                series.setdefault(key, []).append(replace(place, value=value))
    epochs = [placed.epoch for placed in lines if placed.epoch is not None]
    last = Point(
        0.0,
        max(epochs, default=None),
        max((placed.step for placed in lines), default=None),
        seconds if stretches else None,
    )
    curves = RunCurves(name, folder, series, stretches, last.seconds, False, last=last)
    return _with_verdict(curves, [placed for placed in lines if not placed.line.validates])


def _first_step_before(lines: Iterable[_Placed]) -> float:
    """Return the step at which the log begins: 0, or that of the checkpoint."""
    steps = [placed.step for placed in lines if not placed.line.validates]
    return max(0.0, 2 * steps[0] - steps[1]) if len(steps) > 1 else 0.0


def _whole(epoch: float | None) -> int | None:
    return None if epoch is None else int(epoch)


def _with_verdict(curves: RunCurves, training: Sequence[_Placed]) -> RunCurves:
    """Mark a run as unhealthy if its last loss is not finite; such losses are not drawn."""
    bad = [placed for placed in training if not is_finite(placed.line)]
    if not bad:
        return curves
    reason = (
        f"{len(bad)} of {len(training)} values of loss are not finite, first at step "
        f"{bad[0].step:.0f}"
    )
    log.warning("%s: %s; they are left out", curves.path, reason)
    if bad[-1] is not training[-1]:
        return curves
    return replace(curves, state="unhealthy", kind="non-finite", reason=reason)
