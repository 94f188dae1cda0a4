"""What a search has taken, to compare it with its first forecast. Writes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from segtune.checks.disk_need import search_bytes
from segtune.checks.forecast import Forecast
from segtune.checks.forecast_record import read_forecast
from segtune.checks.observed_trials import ObservedTrial, TrialObserver
from segtune.checks.search_limits import read_end
from segtune.runs.rundir import SearchDir
from segtune.runs.timeline import read_sessions
from segtune.tuning.study import Study


@dataclass(frozen=True)
class Compared:
    """One number of a forecast and what came out."""

    name: str
    unit: str  # "s", "epochs" or "bytes"
    expected: float
    actual: float

    @property
    def ratio(self) -> float:
        """The outcome relative to the forecast."""
        return self.actual / self.expected


def compare_with_outcome(study: Study, run: SearchDir) -> list[Compared]:
    """Return the first forecast of a search beside its outcome.

    Empty if the search has neither ended nor used up its budget, has no forecast, or was extended
    after its last session.
    """
    record = read_forecast(run)
    trials = TrialObserver(run).read()
    num_ended = sum(trial.has_ended for trial in trials)
    sessions = read_sessions(run)
    is_over = num_ended >= study.num_trials or read_end(run) is not None
    if record is None or not is_over or not sessions:
        return []
    expected = record.first
    if expected.num_trials != study.num_trials:
        return []
    rows = [
        ("total time", "s", expected.total_s, sum(session.seconds for session in sessions)),
        ("one epoch of the config itself", "s", *_epoch_s(expected, trials)),
        ("epochs", "epochs", expected.num_epochs, sum(trial.num_epochs for trial in trials)),
        ("disk", "bytes", expected.disk_bytes, search_bytes(run)),
    ]
    return [Compared(n, unit, e, a) for n, unit, e, a in rows if e and a]


def _epoch_s(expected: Forecast, trials: list[ObservedTrial]) -> tuple[float | None, float | None]:
    own = trials[0]
    actual = own.seconds / own.num_epochs if own.num_epochs == expected.full_epochs else None
    return expected.epoch_s, actual
