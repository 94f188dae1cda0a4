"""The first, the latest and earlier forecasts of a search run, as RUN/forecast.json holds them.

The driver of the search writes the file; `segtune status` and the report read it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segtune.checks.corner_steps import costs_of
from segtune.checks.disk_need import refuse_full_disk
from segtune.checks.forecast import Forecast, Measured, Slots, forecast, needed_disk
from segtune.checks.observed_trials import ObservedTrial, TrialObserver
from segtune.checks.step_costs import StepCosts
from segtune.errors import RunError
from segtune.runs.atomic import write_atomic
from segtune.runs.rundir import SearchDir
from segtune.runs.timeline import read_sessions
from segtune.tuning.study import Study

log = logging.getLogger(__name__)

FORMAT = 1
# Entries of the history: an entry is added when 1/HISTORY of the trials have ended since the last.
HISTORY = 50
# A forecast may take at most 1 % of the driver's time.
PAUSE_PER_UPDATE = 100
MIN_PAUSE_S = 2.0


@dataclass(frozen=True)
class ForecastRecord:
    """The forecasts of a search run."""

    first: Forecast
    latest: Forecast
    in_all_slots: tuple[StepCosts, ...] = ()  # of the config itself, in all slots at once
    history: tuple[Mapping[str, Any], ...] = ()  # written, num_ended, total_s, low_s, high_s

    def dump(self) -> dict[str, Any]:
        """Return the record as plain JSON values."""
        return {
            "format": FORMAT,
            "first": self.first.dump(),
            "latest": self.latest.dump(),
            "in_all_slots": [costs.dump() for costs in self.in_all_slots],
            "history": list(self.history),
        }


def read_forecast(run: SearchDir) -> ForecastRecord | None:
    """Return the forecasts of a search run; None if there are none, as in early versions.

    A forecast is a comment on the search. If its file is damaged, there is none.
    """
    try:
        content = json.loads(run.forecast.read_text())
        return ForecastRecord(
            first=Forecast.parse(content["first"]),
            latest=Forecast.parse(content["latest"]),
            in_all_slots=tuple(map(StepCosts.parse, content["in_all_slots"])),
            history=tuple(content["history"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_costs(run: SearchDir) -> list[StepCosts]:
    """Return what the corner steps of a search run have measured.

    Empty if there were none, or if their record is damaged.
    """
    try:
        return costs_of(run.read_corners() or {})
    except (RunError, TypeError):
        return []


def _num_classes(study: Study) -> int:
    """Return the number of classes, or 0 if this machine does not know it."""
    from segtune.checks.data_sizes import data_sizes  # imports OpenCV

    return data_sizes(study.config).num_classes or 0


class Forecaster:
    """Keeps the forecast of a search run current while the search runs."""

    def __init__(
        self, study: Study, run: SearchDir, slots: Slots, in_all_slots: Sequence[StepCosts] = ()
    ) -> None:
        """Begin with the corner steps and the trials that the run folder holds.

        `in_all_slots` are the costs of the config itself while all slots take steps. If they are
        empty, those of an earlier session count.
        """
        self._study = study
        self._run = run
        self._slots = slots
        self._record = read_forecast(run)
        earlier = self._record.in_all_slots if self._record else ()
        self._in_all_slots = tuple(in_all_slots) or earlier
        self._corners = read_costs(run)
        self._num_classes = _num_classes(study)
        self._observer = TrialObserver(run)
        self._before_s = sum(session.seconds for session in read_sessions(run))
        self._began = time.time()
        self._trials: list[ObservedTrial] = []  # of the latest forecast
        self._next_update = 0.0  # on the monotonic clock

    def begin(self, *, may_refuse: bool) -> None:
        """Write the first forecast of this session.

        It is the one that is compared with the outcome, unless an earlier session has made one for
        as many trials. With `may_refuse`, raise RunError if the disk has not enough space.
        """
        measured = self._measured()
        latest = forecast(self._study, self._slots, measured)
        need = needed_disk(latest, self._study, measured)
        if need and may_refuse:
            refuse_full_disk(self._study, self._run, need)
        if self._record and self._record.first.num_trials == latest.num_trials:
            self._write(self._record.first, latest)
        else:
            self._write(latest, latest)

    def update_if_due(self) -> None:
        """Write the forecast again, unless the latest one is too young."""
        if time.monotonic() >= self._next_update:
            self.update()

    def update(self) -> None:
        """Write the forecast again if epochs or trials have ended since the latest one."""
        start = time.monotonic()
        if self._record is None:
            return
        measured = self._measured()
        if measured.trials != self._trials:
            latest = forecast(self._study, self._slots, measured)
            first = self._record.first
            # Without corner steps, the first epochs make the first forecast of the time.
            self._write(latest if first.total_s is None else first, latest)
            self._trials = list(measured.trials)
        took_s = time.monotonic() - start
        self._next_update = start + max(MIN_PAUSE_S, PAUSE_PER_UPDATE * took_s)

    def _measured(self) -> Measured:
        now = time.time()
        corners = self._corners
        if self._in_all_slots:  # then the config itself, taken alone, says less
            corners = [costs for costs in corners if costs.params]
        return Measured(
            costs=[*self._in_all_slots, *corners],
            are_alone=not self._in_all_slots,
            trials=self._observer.read(),
            elapsed_s=self._before_s + now - self._began,
            began=self._began,
            now=round(now, 3),
            num_classes=self._num_classes,
        )

    def _write(self, first: Forecast, latest: Forecast) -> None:
        history = self._record.history if self._record else ()
        step = max(1, latest.num_trials // HISTORY)
        if not history or latest.num_ended >= history[-1]["num_ended"] + step:
            names = ("written", "num_ended", "total_s", "low_s", "high_s")
            history = (*history, {name: getattr(latest, name) for name in names})
        self._record = ForecastRecord(first, latest, self._in_all_slots, history)
        try:
            write_atomic(self._run.forecast, json.dumps(self._record.dump(), indent=1) + "\n")
        except OSError as error:  # the trials find out whether the search has to end
            log.info("the forecast is not written: %s", error)
