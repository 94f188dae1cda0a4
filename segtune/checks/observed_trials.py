"""What the trials of a search run have cost so far. Reads the files of the run, and writes none."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from segtune.runs.records import EpochRecord
from segtune.runs.results import BAD_ENDS, read_params
from segtune.runs.rundir import SearchDir, TrialDir
from segtune.runs.verdict import OUTRANKED, Verdict
from segtune.tuning.guards import GUARD


@dataclass(frozen=True)
class ObservedTrial:
    """The times and the end of one trial. Times are Unix time in seconds."""

    number: int
    params: dict[str, Any] = field(default_factory=dict)
    verdict: Verdict | None = None
    drawn: float | None = None  # the first attempt; None in the folders of early versions
    first_step: float | None = None  # None before the end of the first epoch, or after a restart
    last_step: float | None = None  # the end of its last epoch
    seconds: float = 0.0  # of its epochs, with the time between them
    num_epochs: int = 0
    validated: tuple[int, ...] = ()  # epochs with a validation that count towards the result
    val_ratio: float | None = None  # a validation relative to the steps of an epoch, if known

    @property
    def has_ended(self) -> bool:
        """Whether the trial has ended or is paused: a resume does not continue it in any case."""
        return self.verdict is not None and self.verdict.is_final

    @property
    def is_bad(self) -> bool:
        """Whether the trial ended unhealthy or failed."""
        return self.verdict is not None and self.verdict.state in BAD_ENDS

    @property
    def is_untrained(self) -> bool:
        """Whether the trial was not trained, because its network breaks a guard."""
        return self.verdict is not None and self.verdict.kind == GUARD and self.verdict.epoch == 0

    @property
    def stopped_at(self) -> int | None:
        """The epoch at which the stopping rule stopped or paused the trial."""
        is_stopped = self.verdict is not None and self.verdict.state in OUTRANKED
        return self.verdict.epoch if self.verdict and is_stopped else None

    @property
    def launch_s(self) -> float | None:
        """Seconds from the draw to the first step."""
        if self.drawn is None or self.first_step is None:
            return None
        return self.first_step - self.drawn


class TrialObserver:
    """Reads the trials of a search run repeatedly, but each trial that has ended only once."""

    def __init__(self, run: SearchDir) -> None:
        self.run = run
        self._ended: dict[str, ObservedTrial] = {}

    def read(self) -> list[ObservedTrial]:
        """Return the trials that have been started, by number."""
        return [self._read(trial) for trial in self.run.trial_dirs()]

    def _read(self, trial: TrialDir) -> ObservedTrial:
        if trial.id in self._ended:
            return self._ended[trial.id]
        observed = _observe(trial)
        is_paused = observed.verdict is not None and observed.verdict.state == "paused"
        if observed.has_ended and not is_paused:
            self._ended[trial.id] = observed
        return observed


def _observe(trial: TrialDir) -> ObservedTrial:
    verdict = trial.read_verdict()
    records = trial.read_epochs()
    attempts = trial.read_attempts()
    is_whole = len(attempts) == 1 and bool(records) and bool(records[0].ended)
    first_step = records[0].ended - records[0].seconds if is_whole else None
    seconds = records[-1].seconds if records else 0.0
    if first_step is not None:  # also what is between the epochs, such as writing a checkpoint
        seconds = max(seconds, records[-1].ended - first_step)
    last = verdict.epoch if verdict and verdict.state in OUTRANKED else len(records)
    return ObservedTrial(
        number=int(trial.id),
        params=read_params(trial),
        verdict=verdict,
        drawn=attempts[0].started if attempts else None,
        first_step=first_step,
        last_step=records[-1].ended if records and records[-1].ended else None,
        seconds=seconds,
        num_epochs=len(records),
        validated=tuple(r.epoch for r in records if r.validation and r.epoch <= last),
        val_ratio=_val_ratio(records),
    )


def _val_ratio(records: Sequence[EpochRecord]) -> float | None:
    """Return the time of a validation relative to the training steps of an epoch.

    None if all epochs have a validation, or none.
    """
    before = [0.0, *(record.seconds for record in records)]
    with_val, without = [], []
    for record, earlier in zip(records, before, strict=False):
        (with_val if record.validation else without).append(record.seconds - earlier)
    if not (with_val and without):
        return None
    steps = statistics.median(without)
    return max(0.0, statistics.median(with_val) / steps - 1) if steps > 0 else None
