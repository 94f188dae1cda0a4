"""The forecast of a search in words: before it starts, while it runs, and beside its outcome."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from segtune.checks.disk_need import format_bytes
from segtune.checks.findings import percent
from segtune.checks.forecast import Forecast
from segtune.checks.forecast_outcome import Compared, compare_with_outcome
from segtune.checks.forecast_record import read_forecast
from segtune.reporting.format import format_duration, num_ended, rough_duration
from segtune.runs.results import read_trials
from segtune.runs.rundir import SearchDir
from segtune.tuning.study import Study

DAY_S = 24 * 3600
# A forecast that is older says nothing about a search that should have ended by it.
FRESH_S = 600
# The first forecast is written within this time of the start of a search, but not with --no-check.
SOON_S = 0.5
BEFORE = "before the first trial"


def forecast_lines(forecast: Forecast, free: int, now: float | None = None) -> Iterator[str]:
    """Yield the lines of a forecast of a search that has not begun, for `--dry-run`.

    `free` is the free space of the disk in bytes; `now` is the Unix time at which it begins.
    """
    total = forecast.num_trials * forecast.full_epochs
    if forecast.epoch_s is None or forecast.trial_s is None:
        yield "time:       not known before the first epochs, because no steps were measured"
    else:
        yield (
            f"time:       about {rough_duration(forecast.epoch_s)} per epoch and "
            f"{rough_duration(forecast.trial_s)} per trial at full length (the config itself)"
        )
    yield (
        f"saved:      about {forecast.num_epochs:.0f} of {total} epochs are trained; "
        f"trials that end early{' and the budget' if forecast.cut_share else ''} save "
        f"{percent(forecast.saved_share)}"
    )
    if forecast.cut_share:
        yield (
            "budget:     it ends the search before its last trial in "
            f"{percent(forecast.cut_share)} of the simulated searches"
        )
    if (total_s := forecast.total_s) is not None:
        begin = time.time() if now is None else now
        yield (
            f"finish:     about {clock_time(begin + total_s)} if it starts now, in "
            f"{rough_duration(total_s)} ({interval_words(forecast)}), with "
            f"{forecast.slots.concurrent} trial(s) at the same time"
        )
        yield f"hours:      {_hours(forecast)}"
    if forecast.disk_bytes is not None and forecast.disk_peak_bytes is not None:
        yield (
            f"disk:       about {format_bytes(forecast.disk_bytes)} at the end, at most "
            f"{format_bytes(forecast.disk_peak_bytes)} ({format_bytes(free)} free)"
        )
    if forecast.peak_bytes is not None:
        yield f"memory:     about {format_bytes(forecast.peak_bytes)} per worker for training"


def _hours(forecast: Forecast) -> str:
    hours = forecast.worker_hours or 0.0
    words = f"{two_digits(hours)} worker-hours"
    if forecast.slots.gpus:
        words += f", {two_digits(hours * forecast.slots.gpus)} GPU-hours"
    return words


def two_digits(hours: float) -> str:
    """Return hours with two digits: `0.039`, `2.5`; from 10 on as a whole number."""
    return f"{hours:.2g}" if hours < 10 else f"{hours:.0f}"


def interval_words(forecast: Forecast) -> str:
    """Return the interval of the total time in words."""
    low, high = forecast.low_s or 0.0, forecast.high_s or 0.0
    return f"80 %: {rough_duration(low)} to {rough_duration(high)}"


def clock_time(moment: float) -> str:
    """Return a Unix time as a time of day, with the day if it is not within the next 24 hours."""
    is_soon = moment - time.time() < DAY_S
    return time.strftime("%H:%M" if is_soon else "%d %b %H:%M", time.localtime(moment))


def left_words(forecast: Forecast, now: float | None = None) -> str:
    """Return how long a running search still takes, and until when; empty if it is not known.

    A search that takes longer than its latest forecast is about to end, unless that forecast is
    old.
    """
    if forecast.left_s is None:
        return ""
    now = time.time() if now is None else now
    left_s = forecast.left_s - (now - forecast.written)
    if left_s <= 0:
        return "about to end" if now - forecast.written < FRESH_S else ""
    return f"about {format_duration(left_s)} left, until about {clock_time(now + left_s)}"


def forecast_summary(study: Study, run: SearchDir) -> dict[str, str]:
    """Return {label: words} of how long a search still takes, or of what its forecast was worth.

    Empty for a search run without a forecast, as of an early version.
    """
    rows = compare_with_outcome(study, run)
    record = read_forecast(run)
    if rows and record:
        made = made_words(record.first)
        late = "" if made == BEFORE else f"; the forecast was made {made}"
        return {"forecast": outcome_line(rows) + late}
    if (
        record is None
        or not record.latest.left_s
        or num_ended(read_trials(run)) >= study.num_trials
    ):
        return {}
    if run.is_locked():
        words = left_words(record.latest)
        return {"finish": f"{words} ({interval_words(record.latest)} in all)"} if words else {}
    return {"left": f"about {rough_duration(record.latest.left_s)} of search, after a resume"}


def made_words(forecast: Forecast) -> str:
    """Return when a forecast was made: before the first trial, or after how many and how long."""
    if not forecast.num_ended and forecast.elapsed_s < SOON_S:
        return BEFORE
    return f"after {forecast.num_ended} trial(s) and {rough_duration(forecast.elapsed_s)}"


def outcome_caption(run: SearchDir) -> str:
    """Return what the table of the forecast and the outcome shows; empty without a forecast."""
    record = read_forecast(run)
    if record is None:
        return ""
    made = made_words(record.first)
    expected = f"What was expected {made}" if made == BEFORE else f"Forecast {made}"
    return f"{expected}, and what came out. Ratio: outcome / forecast."


def outcome_line(rows: Sequence[Compared]) -> str:
    """Return the forecast beside the outcome in one line."""
    return "; ".join(
        f"{row.name} {_amount(row.actual, row.unit)}, forecast {_amount(row.expected, row.unit)} "
        f"({row.ratio:.2f})"
        for row in rows
    )


def outcome_table(rows: Sequence[Compared]) -> list[tuple[str, str, str, str]]:
    """Return the forecast beside the outcome as cells: name, forecast, outcome, ratio."""
    return [
        (
            row.name,
            _amount(row.expected, row.unit),
            _amount(row.actual, row.unit),
            f"{row.ratio:.2f}",
        )
        for row in rows
    ]


def _amount(value: float, unit: str) -> str:
    match unit:
        case "s":
            return rough_duration(value)
        case "bytes":
            return format_bytes(value)
        case _:
            return f"{value:.0f}"
