"""The numbers of training runs: seconds per step, and the best value of each key."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from segtune.reporting.curve_layout import format_number
from segtune.reporting.curves import Point, RunCurves, Stretch, best_point, direction
from segtune.reporting.format import format_duration
from segtune.reporting.terminal import print_lines


@dataclass(frozen=True)
class Pace:
    """Seconds per training step of one run."""

    mean: float
    median: float
    slowest: tuple[int, float] | None  # epoch and seconds per step; None: no epochs in the log
    fastest: tuple[int, float] | None
    with_validation: bool  # every timed stretch includes a validation


def pace_of(stretches: Sequence[Stretch]) -> Pace | None:
    """Return the seconds per step, or None if no time is known.

    Stretches with a validation count only if there are no others. The mean is over steps, the
    median over stretches: the epochs of segtune, and the lines of a log of mmengine.
    """
    timed = [s for s in stretches if s.num_steps > 0 and s.seconds > 0]
    timed = [s for s in timed if not s.with_validation] or timed
    if not timed:
        return None
    by_epoch: dict[int, list[Stretch]] = {}
    for stretch in timed:
        if stretch.epoch is not None:
            by_epoch.setdefault(stretch.epoch, []).append(stretch)
    means = {epoch: _mean(part) for epoch, part in by_epoch.items()}
    return Pace(
        _mean(timed),
        statistics.median(s.seconds / s.num_steps for s in timed),
        max(means.items(), key=lambda item: item[1], default=None),
        min(means.items(), key=lambda item: item[1], default=None),
        all(s.with_validation for s in timed),
    )


def _mean(stretches: Sequence[Stretch]) -> float:
    return sum(s.seconds for s in stretches) / sum(s.num_steps for s in stretches)


def pace_table(runs: Sequence[RunCurves]) -> Table:
    """Return a table of the runs: how far they are, their time, and the seconds per step."""
    table = Table(header_style="bold", title="time", title_justify="left")
    table.add_column("run", overflow="fold")
    for title in ("epochs", "steps", "total", "s/step", "median", "slowest epoch", "fastest epoch"):
        table.add_column(title, justify="right")
    table.add_column("state")
    for run in runs:
        pace = pace_of(run.stretches)
        total = "-" if run.seconds is None else format_duration(run.seconds)
        table.add_row(
            Text(run.name),
            _count(run.last.epoch),
            _count(run.last.step),
            total + ("" if run.with_validation or run.seconds is None else " *"),
            *_pace_cells(pace),
            Text(run.ending or run.state or "-"),
        )
    return table


def _count(number: float | None) -> str:
    return "-" if number is None else f"{number:.1f}" if number % 1 else f"{number:.0f}"


def _pace_cells(pace: Pace | None) -> list[str]:
    if pace is None:
        return ["-"] * 4
    mark = " +" if pace.with_validation else ""
    cells = [f"{pace.mean:.4g}{mark}", f"{pace.median:.4g}"]
    for extreme in (pace.slowest, pace.fastest):
        cells.append("-" if extreme is None else f"{extreme[1]:.4g} (epoch {extreme[0]})")
    return cells


def notes(runs: Sequence[RunCurves]) -> list[str]:
    """Return why runs went wrong, and what the marks of the table of times mean if they occur."""
    paces = [pace_of(run.stretches) for run in runs]
    lines = [f"{run.name} {run.state}: {run.reason}" for run in runs if run.reason]
    if any(not run.with_validation and run.seconds is not None for run in runs):
        lines.append("* training steps only: logs of mmengine do not have the time of validations")
    if any(pace and pace.with_validation for pace in paces):
        lines.append("+ with the validations: every epoch of the run ends with one")
    return lines


def print_numbers(runs: Sequence[RunCurves], keys: Sequence[str], console: Console) -> None:
    """Print the times of the runs, why runs went wrong, and the best value of each key."""
    console.print(pace_table(runs))
    print_lines(console, *notes(runs))
    if keys:
        console.print(best_table(runs, keys))


def best_table(runs: Sequence[RunCurves], keys: Sequence[str]) -> Table:
    """Return a table with the best value of each key and where it was reached."""
    titles = [f"{'best' if direction(key) else 'last'} {key}" for key in keys]
    table = Table(header_style="bold", title="values", title_justify="left")
    table.add_column("run", overflow="fold")
    for title in titles:
        table.add_column(title, justify="right")
    for run in runs:
        cells = [
            _cell(key, best_point(key, run.series[key])) if key in run.series else "-"
            for key in keys
        ]
        table.add_row(Text(run.name), *cells)
    return table


def _cell(key: str, point: Point) -> str:
    return f"{format_number(key, point.value)} ({place_of(point)})"


def place_of(point: Point) -> str:
    """Return where a value was measured: its epoch if that is known, otherwise its step."""
    if point.epoch is not None:
        return f"epoch {math.ceil(point.epoch)}"  # epoch 3 is from 2 to 3
    return f"step {_count(point.step)}"


def to_json(runs: Sequence[RunCurves], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Return the same numbers as plain values. Scores are in 0..1, times in seconds."""
    rows: list[dict[str, Any]] = []
    for run in runs:
        pace = pace_of(run.stretches)
        rows.append(
            {
                "name": run.name,
                "path": str(run.path),
                "state": run.state or None,
                "kind": run.kind or None,
                "epochs": run.last.epoch,
                "steps": run.last.step,
                "seconds": run.seconds,
                "seconds_with_validation": run.with_validation,
                "step_seconds": _pace_row(pace) if pace else None,
                "values": {
                    key: _value_row(key, run.series[key]) for key in keys if key in run.series
                },
            }
        )
    return rows


def _pace_row(pace: Pace) -> Mapping[str, Any]:
    def extreme(pair: tuple[int, float] | None) -> Mapping[str, float] | None:
        return None if pair is None else {"epoch": pair[0], "step_seconds": pair[1]}

    return {
        "mean": pace.mean,
        "median": pace.median,
        "slowest_epoch": extreme(pace.slowest),
        "fastest_epoch": extreme(pace.fastest),
        "with_validation": pace.with_validation,
    }


def _value_row(key: str, points: Sequence[Point]) -> Mapping[str, Any]:
    best = best_point(key, points)
    name = "best" if direction(key) else "last"
    return {name: best.value, "epoch": best.epoch, "step": best.step, "num_points": len(points)}
