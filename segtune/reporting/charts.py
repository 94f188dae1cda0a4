"""The charts of a search run's page, as inline SVG. Reads no file; `html.py` makes the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from markupsafe import Markup, escape

from segtune.reporting.format import format_miou, format_value, short_names, time_unit
from segtune.reporting.svg import Axis, Plot, shortened
from segtune.runs.results import BAD_ENDS, RUNNING, TrialResult, best_trial
from segtune.runs.timeline import Timeline
from segtune.tuning.space import Dimension

STATES = ("completed", "pruned", "paused", "unhealthy", "failed", "interrupted", RUNNING)
CONFIG_ITSELF = "the config itself"
# Epochs less than this apart are drawn as one bar, in seconds.
MAX_GAP_S = 1.0
# The part of a trial outside its finished epochs.
OTHER = "starting and other"
# More curves than this are drawn thin and without points.
MANY = 200
NUM_SHADES = 5

Curve = Sequence[tuple[int, float]]


def legend(entries: Mapping[str, str]) -> Markup:
    """Return a legend from {class of the mark: words}."""
    items = (f'<li><span class="key {kind}"></span>{escape(e)}</li>' for kind, e in entries.items())
    return Markup(f'<ul class="legend">{"".join(items)}</ul>')


def _legend_of_states(trials: Sequence[TrialResult]) -> dict[str, str]:
    drawn = {trial.state for trial in trials}
    return {f"s-{state}": state for state in STATES if state in drawn}


def learning_curves(
    trials: Sequence[TrialResult], scores: Mapping[str, Curve], rungs: Sequence[int]
) -> Markup:
    """Return mIoU over epochs, with a line for each trial and a dotted line at each rung.

    `scores` are (epoch, mIoU in 0..1) by trial id. The best trial and the config itself have a line
    of their own on top.
    """
    drawn = [trial for trial in trials if scores.get(trial.id)]
    epochs = [epoch for trial in drawn for epoch, _ in scores[trial.id]]
    mious = [100 * miou for trial in drawn for _, miou in scores[trial.id]]
    x = Axis.over(epochs, "epoch", is_whole=True, from_zero=True, margin=0.02)
    plot = Plot(x, Axis.over(mious, "mIoU", from_zero=True), 1100, 400)
    for rung in rungs:
        plot.upright(rung, f"rung {rung}")
    best = best_trial(trials)
    for trial in drawn:
        kind = f"curve s-{trial.state}{' thin' if len(drawn) > MANY else ''}"
        _add_curve(plot, trial, scores[trial.id], kind, has_points=len(drawn) <= MANY)
    entries = _legend_of_states(drawn)
    for trial in drawn:
        if trial.number == 0 and trial is not best:
            _add_curve(plot, trial, scores[trial.id], "curve baseline", has_points=False)
            entries["baseline"] = f"{CONFIG_ITSELF} (trial {trial.id})"
    if best and best in drawn:
        _add_curve(plot, best, scores[best.id], "curve best", has_points=False)
        entries["best"] = f"best (trial {best.id})"
    words = f"Learning curves of {len(drawn)} trials over {max(epochs)} epochs"
    if best:
        words += f"; the best, trial {best.id}, reaches mIoU {format_miou(best.miou)}"
        words += f" at epoch {best.best_epoch}"
    return legend(entries) + scrolled(plot.svg(words), "Learning curves")


def _add_curve(
    plot: Plot, trial: TrialResult, curve: Curve, kind: str, *, has_points: bool
) -> None:
    points = [(epoch, 100 * miou) for epoch, miou in curve]
    plot.line(points, kind, trial.number)
    if has_points or len(points) == 1:
        for x, y in points:
            plot.point(x, y, f"{kind} dot", trial.number)


def scrolled(html: str, name: str) -> Markup:
    """Return a chart in a box that scrolls on a narrow screen."""
    label = escape(name)
    return Markup(f'<div class="wide" tabindex="0" role="region" aria-label="{label}">{html}</div>')


def miou_by_setting(trials: Sequence[TrialResult], dimensions: Sequence[Dimension]) -> Markup:
    """Return a chart for each searched setting: best mIoU over its value, with a point per trial.

    The best trial is a star. Unhealthy and failed trials are crosses, at 0 if they have no mIoU.
    """
    best = best_trial(trials)
    top = max((100 * trial.miou for trial in trials if trial.miou is not None), default=1.0)
    charts = []
    for name, title in short_names([d.name for d in dimensions]).items():
        dimension = next(d for d in dimensions if d.name == name)
        drawn = [t for t in trials if _has_point(t, dimension)]
        x = setting_axis(dimension, [t.params[name] for t in trials if name in t.params], title)
        plot = Plot(x, Axis("mIoU", 0.0, 1.05 * top or 1.0), 360, 240)
        for trial in sorted(drawn, key=lambda t: t is best):
            kind = "star best" if trial is best else f"s-{trial.state}"
            kind += " cross" if trial.state in BAD_ENDS else ""
            place = coordinate(dimension, trial.params[name], x)
            plot.point(place, 100 * (trial.miou or 0.0), kind, trial.number)
        charts.append(plot.svg(_setting_words(name, drawn, best)))
    entries = _legend_of_states(trials) | ({"best": "best"} if best else {})
    return legend(entries) + Markup(f'<div class="grid-of-charts">{"".join(charts)}</div>')


def _setting_words(name: str, drawn: Sequence[TrialResult], best: TrialResult | None) -> str:
    words = f"mIoU over {name}: {len(drawn)} trials"
    if best and name in best.params:
        value = format_value(best.params[name])
        words += f"; the best has {value} and mIoU {format_miou(best.miou)}"
    return words


def _has_point(trial: TrialResult, dimension: Dimension) -> bool:
    return has_place(trial, dimension) and (trial.miou is not None or trial.state in BAD_ENDS)


def has_place(trial: TrialResult, dimension: Dimension) -> bool:
    """Whether a trial has the setting, with a value that its axis can show."""
    if dimension.name not in trial.params:
        return False
    # A config outside the space may have 0, for which a logarithmic axis has no place.
    return dimension.kind != "loguniform" or trial.params[dimension.name] > 0


def setting_axis(dimension: Dimension, drawn: Sequence[Any], title: str = "") -> Axis:
    """Return an axis that shows the whole range of a setting, also parts without a trial.

    `drawn` are the values of the trials: that of the config itself may lie outside the range.
    """
    if dimension.kind == "choice":
        labels = _labels(dimension)
        others = (format_value(v) for v in drawn if dimension.index_of(v) is None)
        return Axis.categories(list(dict.fromkeys([*labels, *others])), title)
    numbers = [v for v in drawn if isinstance(v, int | float)]
    is_log = dimension.kind == "loguniform"
    is_whole = dimension.kind == "int"
    return Axis.over([*dimension.values, *numbers], title, is_log=is_log, is_whole=is_whole)


def _labels(dimension: Dimension) -> list[str]:
    """Return the choices as the tables show them, or in full if two would look the same."""
    labels = [format_value(value) for value in dimension.values]
    if len(set(labels)) < len(labels):
        return [repr(value) for value in dimension.values]
    return labels


def coordinate(dimension: Dimension, value: Any, axis: Axis) -> float:
    """Return where a value lies on the axis of a setting: a number, or the place of a choice."""
    if dimension.kind != "choice":
        return value
    index = dimension.index_of(value)
    return list(axis.labels).index(format_value(value)) if index is None else index


def parallel_coordinates(trials: Sequence[TrialResult], dimensions: Sequence[Dimension]) -> Markup:
    """Return a line for each trial through its values of all settings, to its mIoU.

    The colour is the fifth of the trials to which its mIoU belongs. Trials that went wrong are
    dashed, and end at 0 if they have no mIoU.
    """
    drawn = [t for t in trials if t.params and (t.miou is not None or t.state in BAD_ENDS)]
    drawn.sort(key=lambda t: (t.may_win, t.miou or 0.0))
    best = best_trial(trials)
    values = {d.name: [t.params[d.name] for t in drawn if d.name in t.params] for d in dimensions}
    axes = [setting_axis(d, values[d.name]) for d in dimensions]
    top = max((100 * (t.miou or 0.0) for t in drawn), default=1.0)
    score = Axis("mIoU", 0.0, 1.05 * top or 1.0)
    width = max(1100, 130 * len(axes) + 130)
    plot = Plot(
        Axis.categories([*short_names([d.name for d in dimensions]).values(), "mIoU"]),
        Axis("", 0.0, 1.0, labels=[""]),
        width,
        340,
        left=10,
    )
    healthy = [t for t in drawn if t.may_win]
    for trial in drawn:
        points = list(_places(trial, dimensions, axes))
        points.append((len(axes), score.at(100 * (trial.miou or 0.0))))
        kind = f"q{NUM_SHADES * healthy.index(trial) // len(healthy)}" if trial.may_win else "bad"
        kind = "best" if trial is best else "baseline" if trial.number == 0 else kind
        plot.line(points, f"curve thin {kind}", trial.number)
    for place, axis in enumerate((*axes, score)):
        plot.line([(place, 0.0), (place, 1.0)], "axis")
        for value, label in axis.ticks(4):
            plot.text(place + 0.03, axis.at(value), shortened(label, 80), "start")
    fifths = zip((0, NUM_SHADES // 2, NUM_SHADES - 1), ("lowest", "middle", "highest"), strict=True)
    entries = {f"q{i}": f"{which} fifth of mIoU" for i, which in fifths}
    entries |= {"bad": "cannot win", "baseline": CONFIG_ITSELF, "best": "best"}
    words = f"Parallel coordinates of {len(drawn)} trials and {len(axes)} settings"
    if best:
        chosen = ", ".join(f"{n} {format_value(v)}" for n, v in best.params.items())
        words += f"; the best has {chosen}"
    return legend(entries) + scrolled(plot.svg(words), "Parallel coordinates")


def _places(
    trial: TrialResult, dimensions: Sequence[Dimension], axes: Sequence[Axis]
) -> Iterator[tuple[float, float]]:
    """Yield the number of each axis, and where the trial lies on it in 0..1."""
    for place, (dimension, axis) in enumerate(zip(dimensions, axes, strict=True)):
        if has_place(trial, dimension):
            yield place, axis.at(coordinate(dimension, trial.params[dimension.name], axis))


def slot_timeline(timeline: Timeline, states: Mapping[str, str]) -> Markup:
    """Return what ran in each slot over the time of the search; `states` are by trial id.

    A trial's finished epochs have the colour of its state. The rest of its time is grey.
    """
    unit, unit_s = time_unit(timeline.seconds)
    slots = [str(slot) for slot in range(1, timeline.num_slots + 1)][::-1]
    height = 70 + 34 * timeline.num_slots
    x = Axis(f"time of the search ({unit})", 0.0, timeline.seconds / unit_s)
    plot = Plot(x, replace(Axis.categories(slots), title="slot"), 1100, height)
    drawn: set[str] = set()
    for trial in timeline.intervals:
        row, state = timeline.num_slots - trial.slot, states.get(trial.trial, RUNNING)
        bars = [(trial.began, trial.ended, "other")]
        bars += [(*span, f"s-{state}") for span in without_gaps(trial.epochs)]
        drawn |= {kind for *_, kind in bars}
        for began, ended, kind in bars:
            low, high = (began / unit_s, row - 0.42), (ended / unit_s, row + 0.42)
            plot.bar(low, high, f"span {kind}", int(trial.trial))
    entries = {"other": OTHER, **{f"s-{state}": state for state in STATES}}
    words = f"{len(timeline.intervals)} intervals of trials in {timeline.num_slots} slots over "
    words += f"{timeline.seconds / unit_s:.3g} {unit}"
    kept = {kind: words for kind, words in entries.items() if kind in drawn}
    return legend(kept) + scrolled(plot.svg(words), "Workers' time")


def without_gaps(epochs: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Join epochs that follow one another within MAX_GAP_S; yield (start, end) of each group."""
    group: tuple[float, float] | None = None
    for began, ended in epochs:
        if group and began - group[1] < MAX_GAP_S:
            group = group[0], ended
            continue
        if group:
            yield group
        group = began, ended
    if group:
        yield group
