"""The trials of a run folder as rows and as a table, and the best of them. Needs no Ray: it reads what is on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from segtune.runs.rundir import SearchDir, TrialDir
from segtune.runs.verdict import Verdict

if TYPE_CHECKING:
    import pandas


RUNNING = "running"
# A trial that ended so cannot win, whatever its mIoU.
BAD_ENDS = ("unhealthy", "failed")


@dataclass(frozen=True)
class TrialResult:
    """What is known of one trial. `miou` in 0..1 is the best validated one so far, None before the first validation."""

    number: int
    state: str  # "running" until the trial has a verdict, then the verdict's state
    kind: str = ""
    reason: str = ""
    miou: float | None = None
    best_epoch: int = 0
    epoch: int = 0
    seconds: float = 0.0
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The name of the trial's folder."""
        return f"{self.number:04d}"

    @property
    def healthy(self) -> bool:
        """Whether the trial may win: it has a score and did not end unhealthy or failed."""
        return self.miou is not None and self.state not in BAD_ENDS


def validated_epochs(trial: TrialDir, verdict: Verdict | None) -> list[dict[str, Any]]:
    """Returns the validated epochs that count: the workers of a stopped group may have gone on for a moment."""
    last = verdict.epoch if verdict and verdict.state == "pruned" else math.inf
    return [
        row for row in trial.read_epochs() if row.get("miou") is not None and row["epoch"] <= last
    ]


def read_trial(trial: TrialDir) -> TrialResult:
    """Reads one trial's folder, also while the trial writes to it."""
    verdict = trial.read_verdict()
    rows = validated_epochs(trial, verdict)
    best = max(rows, key=lambda row: row["miou"], default=None)
    return TrialResult(
        number=int(trial.id),
        state=verdict.state if verdict else RUNNING,
        kind=verdict.kind if verdict else "",
        reason=verdict.reason if verdict else "",
        miou=best["miou"] if best else None,
        best_epoch=best["epoch"] if best else 0,
        epoch=max(rows[-1]["epoch"] if rows else 0, verdict.epoch if verdict else 0),
        seconds=rows[-1]["seconds"] if rows else 0.0,
        params=json.loads(trial.params.read_text()) if trial.params.exists() else {},
    )


Seen = dict[str, tuple[int, TrialResult]]


def read_trials(run: SearchDir, seen: Seen | None = None) -> list[TrialResult]:
    """Returns the trials that have been started, by number.

    Who looks again and again hands in the same `seen`: trials that have ended are then read once.
    """
    seen = {} if seen is None else seen
    return [_read_once(trial, seen) for trial in run.trial_dirs()]


def _read_once(trial: TrialDir, seen: Seen) -> TrialResult:
    try:
        ended = trial.verdict.stat().st_mtime_ns
    except FileNotFoundError:
        return read_trial(trial)
    if trial.id not in seen or seen[trial.id][0] != ended:
        seen[trial.id] = ended, read_trial(trial)
    return seen[trial.id][1]


def ranked(trials: Iterable[TrialResult]) -> list[TrialResult]:
    """Returns the trials from best to worst mIoU; those that cannot win come last."""
    return sorted(
        trials, key=lambda t: (not t.healthy, -(t.miou if t.miou is not None else -1.0), t.number)
    )


def best_trial(trials: Iterable[TrialResult]) -> TrialResult | None:
    """Returns the healthy trial with the highest mIoU (the first of equals), or None."""
    return next((t for t in ranked(trials) if t.healthy), None)


def to_frame(trials: Sequence[TrialResult]) -> pandas.DataFrame:
    """Returns a table with columns trial, state, kind, miou, epoch, seconds and one per searched name."""
    import pandas

    columns = ["trial", "state", "kind", "miou", "epoch", "seconds"]
    names = list(dict.fromkeys(name for t in trials for name in t.params))
    rows = [{"trial": t.id, **{c: getattr(t, c) for c in columns[1:]}, **t.params} for t in trials]
    return pandas.DataFrame(rows, columns=columns + names)
