"""The forecast of a search: its time, epochs, worker-hours, disk and memory.

Numbers in, numbers out: measures and reads nothing. Times are those of the search itself, from the
start of Tune to its end, without the start of Ray and the real steps before the first trial.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from segtune.checks.cost_model import CostModel, CostRow
from segtune.checks.disk_need import DiskNeed, disk_need
from segtune.checks.drawn_trials import accepted, random_points
from segtune.checks.observed_trials import ObservedTrial
from segtune.checks.simulated_search import Outcomes, Pace, SearchToCome, TrialToCome, play
from segtune.checks.step_costs import StepCosts
from segtune.checks.survival import Survival
from segtune.tuning.study import Study

# Seconds from the start of a search to the first step of its first trials, and from the end of a
# trial to the first step of the next one without building data and network; measured with
# benchmarks/utilisation.py. A worker group takes longer to start than a single process.
FIRST_LAUNCH_S = 2.0
FIRST_GROUP_LAUNCH_S = 5.0
LAUNCH_S = 0.2
# Random trials over which the time of an epoch is averaged.
NUM_DRAWS = 40
# The interval holds the total in 80 % of the simulated searches.
LOW, HIGH = 0.1, 0.9


@dataclass(frozen=True)
class Slots:
    """Where trials run: how many at the same time, and what each takes."""

    concurrent: int
    workers: int  # per trial
    gpus: float = 0.0  # per worker


@dataclass(frozen=True)
class Forecast:
    """What a search is expected to take. None: not known before the first epochs."""

    num_trials: int
    full_epochs: int  # of a trial at full length
    slots: Slots
    written: float = 0.0  # Unix time
    elapsed_s: float = 0.0  # of the search so far, over all its sessions
    num_ended: int = 0  # trials
    epoch_s: float | None = None  # of the config itself, its share of the validations included
    trial_s: float | None = None  # of the config itself, from its draw to its end
    total_s: float | None = None  # of the search, over all its sessions: the median
    low_s: float | None = None  # ... and an interval of 80 %
    high_s: float | None = None
    num_epochs: float = 0.0  # of all trials
    cut_share: float = 0.0  # of the simulated searches that the budget ends, in 0..1
    disk_bytes: int | None = None  # of the run folder at the end
    disk_peak_bytes: int | None = None  # ... at most
    peak_bytes: int | None = None  # memory of a worker, the largest that was measured

    @property
    def left_s(self) -> float | None:
        """Seconds of search that are left, from the moment of the forecast."""
        return None if self.total_s is None else max(0.0, self.total_s - self.elapsed_s)

    @property
    def saved_share(self) -> float:
        """The share of the epochs of full trials that are not trained, in 0..1."""
        return 1 - self.num_epochs / (self.num_trials * self.full_epochs)

    @property
    def worker_hours(self) -> float | None:
        """Hours of all workers, busy or not; GPU-hours if each has one GPU."""
        if self.total_s is None:
            return None
        return self.total_s * self.slots.concurrent * self.slots.workers / 3600

    def dump(self) -> dict[str, Any]:
        """Return the forecast as plain JSON values."""
        return {**vars(self), "slots": vars(self.slots)}

    @classmethod
    def parse(cls, row: Mapping[str, Any]) -> Forecast:
        """Return the forecast that `dump` has written."""
        known = {field.name: row[field.name] for field in fields(cls) if field.name in row}
        return cls(**{**known, "slots": Slots(**row["slots"])})


@dataclass(frozen=True)
class Measured:
    """What is known about costs before and during a search."""

    costs: Sequence[StepCosts] = ()
    are_alone: bool = False  # whether the config itself was measured while nothing else ran
    trials: Sequence[ObservedTrial] = ()
    elapsed_s: float = 0.0  # of the search, over all its sessions
    began: float = 0.0  # Unix time of the start of this session
    now: float = 0.0  # Unix time
    num_classes: int = 0

    @property
    def timed(self) -> list[StepCosts]:
        """The measured steps that say how long an epoch takes."""
        return [costs for costs in self.costs if costs.step_s and costs.steps_per_epoch]


def forecast(study: Study, slots: Slots, measured: Measured) -> Forecast:
    """Return the forecast of a search that has not begun, or that is running."""
    pace = _pace(study, measured)
    survival = observed_survival(study, measured.trials)
    result = Forecast(
        num_trials=study.num_trials,
        full_epochs=study.epochs,
        slots=slots,
        written=measured.now,
        elapsed_s=measured.elapsed_s,
        num_ended=survival.num_ended,
        peak_bytes=max((c.peak_bytes for c in measured.costs if c.peak_bytes), default=None),
    )
    rows = list(_epoch_rows(study, pace, measured))
    slows_down = measured.are_alone and slots.concurrent * slots.workers > 1
    model = CostModel(study.space, rows, slows_down=slows_down) if rows else None
    search = _search_to_come(study, slots, measured, model)
    outcomes = play(search, pace, survival)
    done = sum(trial.num_epochs for trial in measured.trials)
    result = replace(result, num_epochs=done + outcomes.mean_epochs, cut_share=outcomes.cut_share)
    if model:
        result = _with_times(result, outcomes, model, search, study)
    return _with_disk(result, study, measured)


def observed_survival(study: Study, trials: Sequence[ObservedTrial]) -> Survival:
    """Return the survival model after what these trials have shown."""
    survival = Survival(study)
    for trial in trials:
        for epoch in survival.decision_epochs(trial.number):
            if epoch in trial.validated:
                survival.record(trial.number, epoch, passed=epoch != trial.stopped_at)
        if trial.has_ended:
            survival.record_end(is_bad=trial.is_bad, is_untrained=trial.is_untrained)
    return survival


def _pace(study: Study, measured: Measured) -> Pace:
    """Return the pace of a trial: from epochs without a validation, or from measured steps."""
    schedule = study.trial_config({}).schedule
    ratios = [trial.val_ratio for trial in measured.trials if trial.val_ratio is not None]
    if not ratios:
        own = [costs for costs in measured.timed if not costs.params]
        ratios = [_val_s(costs, study) / _steps_s(costs) for costs in own]
    # If every epoch has a validation, the ratio has no effect.
    ratio = statistics.median(ratios) if ratios else 0.0
    return Pace(study.epochs, schedule.val_every, ratio)


def _steps_s(costs: StepCosts) -> float:
    """Return the seconds of the training steps of an epoch."""
    return (costs.step_s or 0.0) * (costs.steps_per_epoch or 0)


def _val_s(costs: StepCosts, study: Study) -> float:
    """Return the seconds of a validation, whose images the ranks share; 0 if not measured."""
    num_images = (costs.num_val_images or 0) / study.search.workers_per_trial
    return (costs.val_image_s or 0.0) * num_images


def _epoch_rows(study: Study, pace: Pace, measured: Measured) -> Iterator[CostRow]:
    """Yield the seconds of an epoch of a full trial, in each config of which they are known."""
    vals_per_epoch = pace.num_vals / pace.num_epochs
    for costs in measured.timed:
        seconds = _steps_s(costs) + vals_per_epoch * _val_s(costs, study)
        yield CostRow(study.space.complete(costs.params), seconds, is_of_steps=True)
    for trial in measured.trials:
        if trial.num_epochs and trial.seconds > 0:
            # Trials from before an --extend lack the settings that it has added.
            params = study.space.complete(trial.params)
            yield CostRow(params, trial.seconds / pace.units(trial.num_epochs))


def _search_to_come(
    study: Study, slots: Slots, measured: Measured, model: CostModel | None
) -> SearchToCome:
    """Return what is left of the search. Without a model, all times are 0."""
    started = {trial.number for trial in measured.trials}
    running = [
        TrialToCome(
            number=t.number,
            epoch_s=model.predict(study.space.complete(t.params)) if model else 0.0,
            done=t.num_epochs,
            spent_s=_spent_s(t, measured),
        )
        for t in measured.trials
        if not t.has_ended
    ]
    points = study.points()
    waiting = [
        TrialToCome(number, _epoch_s(model, points, number))
        for number in range(study.num_trials)
        if number not in started
    ]
    first_launch_s, launch_s = _launches(slots, measured)
    return SearchToCome(
        running=running[: slots.concurrent],
        waiting=[*running[slots.concurrent :], *waiting],
        drawn_epoch_s=_drawn_epoch_s(study, model),
        num_slots=slots.concurrent,
        first_launch_s=first_launch_s,
        launch_s=launch_s,
        is_started=any(trial.num_epochs for trial in measured.trials),
        time_spread=model.spread if model else 0.0,
        **_budget_left(study, measured),
    )


def _budget_left(study: Study, measured: Measured) -> dict[str, float]:
    """Return the seconds and epochs that the budget leaves; infinite without a limit."""
    budget = study.search.budget
    left_s = 3600 * budget.hours - measured.elapsed_s if budget.hours else math.inf
    done = sum(trial.num_epochs for trial in measured.trials)
    left_epochs = budget.epochs - done if budget.epochs else math.inf
    return {"max_seconds": max(0.0, left_s), "max_epochs": max(0.0, left_epochs)}


def _spent_s(trial: ObservedTrial, measured: Measured) -> float:
    """Return the seconds since the end of a trial's last epoch, in which it trains the next one.

    0 if that epoch was trained in an earlier session: then the trial starts the next one anew.
    """
    if trial.last_step is None or trial.last_step < measured.began:
        return 0.0
    return max(0.0, measured.now - trial.last_step)


def _epoch_s(
    model: CostModel | None, points: Sequence[Mapping[str, Any]], number: int
) -> float | None:
    """Return the seconds of an epoch of a trial that has not started; None if it is drawn."""
    if model is None:
        return 0.0
    return model.predict(points[number]) if number < len(points) else None


def _drawn_epoch_s(study: Study, model: CostModel | None) -> list[float]:
    if model is None:
        return [0.0]
    points = [p for p in random_points(study.space, NUM_DRAWS) if accepted(study, p) is not None]
    return [model.predict(point) for point in points or [study.space.complete({})]]


def _launches(slots: Slots, measured: Measured) -> tuple[float, float]:
    """Return the seconds of the first launch of a slot, and of a later one."""
    own = [costs.start_s for costs in measured.costs if costs.start_s is not None]
    start_s = statistics.median(own) if own else 0.0
    first = FIRST_LAUNCH_S if slots.workers == 1 else FIRST_GROUP_LAUNCH_S
    known = [trial.launch_s for trial in measured.trials if trial.launch_s is not None]
    later = known[slots.concurrent :]
    return first + start_s, statistics.median(later) if later else LAUNCH_S + start_s


def _with_times(
    result: Forecast, outcomes: Outcomes, model: CostModel, search: SearchToCome, study: Study
) -> Forecast:
    epoch_s = model.predict(study.space.complete({}))
    elapsed_s = result.elapsed_s
    return replace(
        result,
        epoch_s=epoch_s,
        trial_s=search.launch_s + epoch_s * study.epochs,
        total_s=elapsed_s + outcomes.quantile(0.5),
        low_s=elapsed_s + outcomes.quantile(LOW),
        high_s=elapsed_s + outcomes.quantile(HIGH),
    )


def _with_disk(result: Forecast, study: Study, measured: Measured) -> Forecast:
    need = needed_disk(result, study, measured)
    if need is None:
        return result
    return replace(result, disk_bytes=need.at_the_end, disk_peak_bytes=need.peak)


def needed_disk(result: Forecast, study: Study, measured: Measured) -> DiskNeed | None:
    """Return the space that the search takes; None if no checkpoint was measured."""
    rows = [
        CostRow(study.space.complete(costs.params), costs.checkpoint_bytes)
        for costs in measured.costs
        if costs.checkpoint_bytes
    ]
    if not rows:
        return None
    model = CostModel(study.space, rows)
    drawn = [model.predict(point) for point in random_points(study.space, NUM_DRAWS)]
    slot_s = None
    if result.total_s is not None:
        slot_s = result.total_s * result.slots.concurrent / result.num_trials
    return disk_need(
        study,
        checkpoint_bytes=statistics.mean(drawn),
        largest_checkpoint=max(row.cost for row in rows),
        num_slots=result.slots.concurrent,
        num_classes=measured.num_classes,
        num_epochs=result.num_epochs,
        slot_s=slot_s,
    )
