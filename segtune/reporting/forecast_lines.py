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
        f"trials that end early save {percent(forecast.saved_share)}"
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
    words = f"{hours:.2g} worker-hours" if hours < 10 else f"{hours:.0f} worker-hours"
    if forecast.slots.gpus:
        words += f", {hours * forecast.slots.gpus:.2g} GPU-hours"
    return words


def interval_words(forecast: Forecast) -> str:
    """Return the interval of the total time in words."""
    low, high = forecast.low_s or 0.0, forecast.high_s or 0.0
    return f"80 %: {rough_duration(low)} to {rough_duration(high)}"


def clock_time(moment: float) -> str:
    """Return a Unix time as a time of day, with the day if it is not within the next 24 hours."""
    is_soon = moment - time.time() < DAY_S
    return time.strftime("%H:%M" if is_soon else "%d %b %H:%M", time.localtime(moment))


def left_words(forecast: Forecast, now: float | None = None) -> str:
    """Return how long a running search still takes, and until when; empty if it is not known."""
    if forecast.left_s is None:
        return ""
    now = time.time() if now is None else now
    left_s = forecast.left_s - (now - forecast.written)
    if left_s <= 0:
        return "about to end"
    return f"about {format_duration(left_s)} left, until about {clock_time(now + left_s)}"


def forecast_summary(study: Study, run: SearchDir) -> dict[str, str]:
    """Return {label: words} of how long a search still takes, or of what its forecast was worth.

    Empty for a search run without a forecast, as of an early version.
    """
    rows = compare_with_outcome(study, run)
    if rows:
        return {"forecast": outcome_line(rows)}
    record = read_forecast(run)
    if (
        record is None
        or not record.latest.left_s
        or num_ended(read_trials(run)) >= study.num_trials
    ):
        return {}
    if run.is_locked():
        return {"finish": f"{left_words(record.latest)} ({interval_words(record.latest)} in all)"}
    return {"left": f"about {rough_duration(record.latest.left_s)} of search, after a resume"}


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
