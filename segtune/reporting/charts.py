"""The figures of a run's report. Each takes what is known of the trials and returns a plotly figure; the page is `report.py`'s."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from segtune.reporting.format import format_value, short_names
from segtune.runs.results import BAD_ENDS, RUNNING, TrialResult, best_trial
from segtune.runs.timeline import Timeline
from segtune.tuning.space import Dimension

# Okabe and Ito's colours, which nearly all eyes can tell apart.
COLOURS = {
    "completed": "#009e73", "pruned": "#e69f00", "unhealthy": "#d55e00", "failed": "#cc79a7", "interrupted": "#56b4e9", RUNNING: "#0072b2",
}  # fmt: skip
INK, GREY, PALE = "#1b1f24", "#6a737d", "#c8ccd2"
COLUMNS = 3
# More classes than these are not told apart in one figure.
MOST_CLASSES = 40
# Stretches of a trial that lie closer together are drawn as one.
BREAK_S = 1.0
Curve = Sequence[tuple[int, float]]


def curves(trials: Sequence[TrialResult], scores: Mapping[str, Curve]) -> go.Figure:
    """Returns validated mIoU over epochs, a line per trial; `scores` are (epoch, mIoU in 0..1) by trial id."""
    figure, winner = _figure(420), best_trial(trials)
    for state, colour in COLOURS.items():
        # One trace for all trials of a state, with gaps: thousands of traces would stall the browser.
        points: list[tuple[int | None, float | None, str]] = []
        for trial in trials:
            if trial.state == state and scores.get(trial.id):
                points += [(epoch, 100 * miou, trial.id) for epoch, miou in scores[trial.id]]
                points.append((None, None, trial.id))
        if points:
            x, y, names = zip(*points, strict=True)
            figure.add_scatter(
                x=x, y=y, customdata=names, name=state, mode="lines+markers", opacity=0.75, line_color=colour, marker_size=7,
                hovertemplate="trial %{customdata}, epoch %{x}: %{y:.2f}<extra></extra>",
            )  # fmt: skip
    for trial in trials:
        name = "best" if trial is winner else "the config itself" if trial.number == 0 else ""
        if name and scores.get(trial.id):
            epochs, mious = zip(*scores[trial.id], strict=True)
            figure.add_scatter(
                x=epochs, y=[100 * miou for miou in mious], name=f"{name} (trial {trial.id})", mode="lines+markers", hoverinfo="skip",
                line={"color": INK, "width": 2.5, "dash": "solid" if trial is winner else "dash"}, marker={"size": 9, "symbol": "circle-open"},
            )  # fmt: skip
    return figure.update_xaxes(title="epoch", rangemode="tozero").update_yaxes(
        title="mIoU", rangemode="tozero"
    )


def settings(trials: Sequence[TrialResult], dimensions: Sequence[Dimension]) -> go.Figure:
    """Returns best mIoU over the value of each setting that varies, a point per trial.

    The best is a star, those that ended badly are crosses, at 0 where they had no mIoU.
    """
    rows = -(-len(dimensions) // COLUMNS)
    titles = short_names([d.name for d in dimensions])
    figure = make_subplots(
        rows,
        COLUMNS,
        subplot_titles=list(titles.values()),
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.32 / rows,
    )
    _style(figure, 90 + 230 * rows)
    told, winner = set[str](), best_trial(trials)
    for index, dimension in enumerate(dimensions):
        place: dict[str, Any] = {"row": index // COLUMNS + 1, "col": index % COLUMNS + 1}
        drawn = [t.params[dimension.name] for t in trials if dimension.name in t.params]
        figure.update_xaxes(_axis(dimension, drawn), **place)
        for state, colour in COLOURS.items():
            group = [
                t
                for t in trials
                if t.state == state
                and dimension.name in t.params
                and (t.miou is not None or state in BAD_ENDS)
            ]
            if group:
                shown = [_shown(dimension, t.params[dimension.name]) for t in group]
                figure.add_scatter(
                    x=shown, y=[100 * (t.miou or 0.0) for t in group],
                    customdata=[(t.id, "no mIoU" if t.miou is None else f"{100 * t.miou:.2f}") for t in group],
                    mode="markers", name=state, legendgroup=state, showlegend=state not in told,
                    marker={
                        "color": colour, "opacity": 0.8, "symbol": "x" if state in BAD_ENDS else ["star" if t is winner else "circle" for t in group],
                        "size": [15 if t is winner else 8 for t in group],
                    },
                    hovertemplate="trial %{customdata[0]}: %{customdata[1]} at %{x}<extra></extra>", **place,
                )  # fmt: skip
                told.add(state)
    return figure.update_yaxes(rangemode="tozero").update_yaxes(title="mIoU", col=1)


def _axis(dimension: Dimension, drawn: Sequence[Any]) -> dict[str, Any]:
    """Return an axis that shows all of a dimension and the values that trials have.

    The value of trial 0, the config itself, may lie outside the range.
    """
    if dimension.kind == "choice":
        return {"type": "category", "categoryorder": "array", "categoryarray": _labels(dimension)}
    is_log = dimension.kind == "loguniform"
    numbers = [v for v in drawn if isinstance(v, (int, float)) and (v > 0 or not is_log)]
    ends = min(*dimension.values, *numbers), max(*dimension.values, *numbers)
    low, high = (math.log10(value) if is_log else value for value in ends)
    margin = 0.05 * (high - low)
    ticks = (
        {"type": "log", "exponentformat": "e", "dtick": "D2" if high - low < 1.5 else 1}
        if is_log
        else {"type": "linear"}
    )
    return {**ticks, "range": [low - margin, high + margin]}


def _labels(dimension: Dimension) -> list[str]:
    """Returns the choices as the table shows them, or in full where they would be the same there."""
    labels = [format_value(value) for value in dimension.values]
    return (
        labels if len(set(labels)) == len(labels) else [repr(value) for value in dimension.values]
    )


def _shown(dimension: Dimension, value: Any) -> Any:
    if dimension.kind != "choice":
        return value
    return next(
        (
            label
            for label, choice in zip(_labels(dimension), dimension.values, strict=True)
            if choice == value
        ),
        format_value(value),
    )


def classes(
    names: Sequence[str], config: Sequence[float | None], winner: Sequence[float | None]
) -> go.Figure:
    """Returns the IoU of each class in the best epoch of the config itself and of the winner, by what was gained.

    IoUs are in 0..1, None for a class that is neither there nor predicted; such classes are left out, and of more than
    MOST_CLASSES those that differ least.
    """
    pairs = [
        (name, 100 * a, 100 * b)
        for name, a, b in zip(names, config, winner, strict=True)
        if a is not None and b is not None
    ]
    widest = sorted(pairs, key=lambda pair: -abs(pair[2] - pair[1]))[:MOST_CLASSES]
    labels, before, after = (
        zip(*sorted(widest, key=lambda pair: pair[2] - pair[1]), strict=True)
        if widest
        else ((), (), ())
    )
    rows = list(range(len(labels)))
    figure = _figure(110 + 24 * len(rows))
    for row in rows:
        figure.add_scatter(
            x=[before[row], after[row]],
            y=[row, row],
            mode="lines",
            line={"color": PALE, "width": 3},
            showlegend=False,
            hoverinfo="skip",
        )
    for title, values, colour in [
        ("the config itself", before, GREY),
        ("best", after, COLOURS["completed"]),
    ]:
        figure.add_scatter(
            x=values, y=rows, customdata=labels, mode="markers", name=title, marker={"color": colour, "size": 10},
            hovertemplate="%{customdata}: %{x:.2f}<extra>" + title + "</extra>",
        )  # fmt: skip
    return figure.update_xaxes(title="IoU", rangemode="tozero").update_yaxes(
        tickvals=rows, ticktext=labels
    )


def workers_time(timeline: Timeline, states: Mapping[str, str]) -> go.Figure:
    """Returns what the trials did when, a row for each place; `states` are by trial id.

    Grey is a trial that is there and in no epoch: it starts, writes a checkpoint, or was ended in the middle of one.
    """
    unit, seconds = (
        ("hours", 3600)
        if timeline.seconds > 5400
        else ("minutes", 60)
        if timeline.seconds > 90
        else ("seconds", 1)
    )
    bars = {
        "starting and other": [
            (interval.trial, interval.slot, interval.began, interval.ended)
            for interval in timeline.intervals
        ]
    }
    for interval in timeline.intervals:
        stretches = [
            (interval.trial, interval.slot, began, ended)
            for began, ended in _joined(interval.epochs)
        ]
        bars.setdefault(states.get(interval.trial, RUNNING), []).extend(stretches)
    figure = _figure(150 + 34 * timeline.num_slots)
    for kind in ("starting and other", *COLOURS):
        if drawn := bars.get(kind):
            figure.add_bar(
                orientation="h", name=kind, marker={"color": COLOURS.get(kind, PALE), "line": {"color": "white", "width": 1}},
                y=[place for _, place, _, _ in drawn], base=[began / seconds for _, _, began, _ in drawn],
                x=[(ended - began) / seconds for _, _, began, ended in drawn],
                customdata=[(trial, ended - began) for trial, _, began, ended in drawn],
                hovertemplate="trial %{customdata[0]}: " + kind + ", %{customdata[1]:.1f} s<extra></extra>",
            )  # fmt: skip
    figure.update_layout(barmode="overlay", bargap=0.15)
    figure.update_xaxes(title=f"{unit} of search", range=[0, timeline.seconds / seconds])
    return figure.update_yaxes(title="slot", dtick=1, range=[timeline.num_slots + 0.5, 0.5])


def _joined(epochs: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns the stretches of epochs without a break."""
    found: list[tuple[float, float]] = []
    for began, ended in epochs:
        if found and began - found[-1][1] < BREAK_S:
            began = found.pop()[0]
        found.append((began, ended))
    return found


def _figure(height: int) -> go.Figure:
    return _style(go.Figure(), height)


def _style(figure: go.Figure, height: int) -> go.Figure:
    return figure.update_layout(
        template="plotly_white", height=height, margin={"l": 60, "r": 20, "t": 40, "b": 50}, font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0 + 24 / height, "x": 0}, hovermode="closest",
    )  # fmt: skip
