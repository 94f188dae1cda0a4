"""The results of the trials of a search run, the best of them, and a table. Writes nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segtune.runs.records import EpochRecord, NetworkProfile
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.runs.verdict import OUTRANKED, Verdict

if TYPE_CHECKING:
    import pandas

RUNNING = "running"
# States of a trial that cannot win, whatever its mIoU.
BAD_ENDS = ("unhealthy", "failed")


@dataclass(frozen=True)
class TrialResult:
    """The result of one trial so far."""

    number: int
    state: str  # "running" until the trial has a verdict, then the verdict's state
    kind: str = ""
    reason: str = ""
    miou: float | None = None  # best validated mIoU in 0..1; None before the first validation
    best_epoch: int = 0
    epoch: int = 0  # the last finished epoch
    seconds: float = 0.0  # of training and validation
    params: dict[str, Any] = field(default_factory=dict)
    profile: NetworkProfile | None = None  # None: not measured
    broken_guards: tuple[str, ...] = ()  # a sentence for each
    is_judged: bool = True  # False: its guards on classes need a trial that has completed

    @property
    def id(self) -> str:
        """The name of the trial's folder."""
        return f"{self.number:04d}"

    @property
    def healthy(self) -> bool:
        """Whether the trial has a score and did not end unhealthy or failed."""
        return self.miou is not None and self.state not in BAD_ENDS

    @property
    def may_win(self) -> bool:
        """Whether the trial is healthy and keeps all guards of its study, by what is known.

        With guards on classes, only a completed trial may win.
        """
        return self.healthy and self.is_judged and not self.broken_guards


def validated_epochs(trial: TrialDir, verdict: Verdict | None) -> list[EpochRecord]:
    """Return the records that have a validation and count towards the result.

    The workers of a pruned or paused trial may train on until they notice it. Epochs after the one
    at which the trial was stopped do not count.
    """
    last = verdict.epoch if verdict and verdict.state in OUTRANKED else math.inf
    return [record for record in trial.read_epochs(last) if record.validation]


def miou_by_epoch(epochs: Iterable[EpochRecord]) -> dict[int, float]:
    """Return {epoch: mIoU in 0..1} for the epochs that have a validation."""
    return {record.epoch: record.validation.miou for record in epochs if record.validation}


def read_trial(trial: TrialDir) -> TrialResult:
    """Return the result of one trial. The trial may still be running."""
    verdict = trial.read_verdict()
    epochs = validated_epochs(trial, verdict)
    scores = miou_by_epoch(epochs)
    best_epoch = max(scores, key=scores.__getitem__, default=0)
    guards = trial.read_guards()
    return TrialResult(
        number=int(trial.id),
        state=verdict.state if verdict else RUNNING,
        kind=verdict.kind if verdict else "",
        reason=verdict.reason if verdict else "",
        miou=scores.get(best_epoch),
        best_epoch=best_epoch,
        epoch=max(epochs[-1].epoch if epochs else 0, verdict.epoch if verdict else 0),
        seconds=epochs[-1].seconds if epochs else 0.0,
        params=read_params(trial),
        profile=trial.read_profile(),
        broken_guards=guards.broken,
        is_judged=guards.is_judged,
    )


def read_params(trial: TrialDir) -> dict[str, Any]:
    """Return {dotted name: value} of the searched settings; empty outside a search."""
    return json.loads(trial.params.read_text()) if trial.params.exists() else {}


class TrialReader:
    """Reads the trials of a search run repeatedly, but each trial that has ended only once."""

    def __init__(self, run: SearchDir) -> None:
        self.run = run
        # The files that decide the result of an ended trial, and the result, by id.
        self._ended: dict[str, tuple[tuple[bytes, bytes], TrialResult]] = {}

    def read(self) -> list[TrialResult]:
        """Return the trials that have been started, by number."""
        return [self._read(trial) for trial in self.run.trial_dirs()]

    def _read(self, trial: TrialDir) -> TrialResult:
        # Not parsed: a live table reads the verdicts of all trials again at every refresh.
        verdict, guards = _bytes_of(trial.verdict), _bytes_of(trial.guards)
        if not verdict:
            return read_trial(trial)
        # A trial that was started again and has ended again has another verdict. The end of trial 0
        # may change which guards the others break.
        if trial.id not in self._ended or self._ended[trial.id][0] != (verdict, guards):
            self._ended[trial.id] = ((verdict, guards), read_trial(trial))
        return self._ended[trial.id][1]


def _bytes_of(path: Path) -> bytes:
    """Return the content of a file; empty if there is no such file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def read_trials(run: SearchDir) -> list[TrialResult]:
    """Return the trials that have been started, by number."""
    return TrialReader(run).read()


def ranked(trials: Iterable[TrialResult]) -> list[TrialResult]:
    """Return the trials from best to worst mIoU; trials that cannot win come last."""

    def rank(trial: TrialResult) -> tuple[bool, float, int]:
        miou = -1.0 if trial.miou is None else trial.miou
        return (not trial.may_win, -miou, trial.number)

    return sorted(trials, key=rank)


def best_trial(trials: Iterable[TrialResult]) -> TrialResult | None:
    """Return the trial with the highest mIoU that may win, the first of equal ones, or None."""
    return next((trial for trial in ranked(trials) if trial.may_win), None)


def to_frame(trials: Sequence[TrialResult]) -> pandas.DataFrame:
    """Return a table: trial, state, kind, miou, epoch, seconds, and a column per searched name.

    If networks were measured, it also has the columns params_m, latency_ms and broken_guards.
    """
    import pandas

    columns = ["trial", "state", "kind", "miou", "epoch", "seconds"]
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    measured = list(_measured_columns(trials[0])) if any(t.profile for t in trials) else []
    rows: list[Mapping[str, Any]] = [
        {
            "trial": t.id,
            **{name: getattr(t, name) for name in columns[1:]},
            **_measured_columns(t),
            **t.params,
        }
        for t in trials
    ]
    return pandas.DataFrame(rows, columns=columns + measured + names)


def _measured_columns(trial: TrialResult) -> dict[str, Any]:
    profile = trial.profile
    return {
        "params_m": profile.params_m if profile else None,
        "latency_ms": profile.latency_ms if profile else None,
        "broken_guards": "; ".join(trial.broken_guards),
    }
