"""The charts of a search run's page, as plotly figures. Reads no file; `html.py` makes the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from segtune.reporting.format import format_miou, format_value, short_names, time_unit
from segtune.runs.results import BAD_ENDS, RUNNING, TrialResult, best_trial
from segtune.runs.timeline import Timeline, TrialInterval
from segtune.tuning.space import Dimension

# The palette of Okabe and Ito (2008), which people with colour blindness can tell apart.
STATE_COLOURS = {
    "completed": "#009e73",
    "pruned": "#e69f00",
    "paused": "#f0e442",
    "unhealthy": "#d55e00",
    "failed": "#cc79a7",
    "interrupted": "#56b4e9",
    RUNNING: "#0072b2",
}
INK = "#1b1f24"
GREY = "#6a737d"
PALE = "#c8ccd2"
CONFIG_ITSELF = "the config itself"
# Charts of settings side by side.
COLUMNS = 3
# A chart with more classes than this cannot be read.
MAX_CLASSES = 40
# Epochs less than this apart are drawn as one bar, in seconds.
MAX_GAP_S = 1.0
# The part of a trial outside its finished epochs.
OTHER = "starting and other"

Curve = Sequence[tuple[int, float]]


class Cell(TypedDict):
    """The position of a chart in a grid of charts, from 1."""

    row: int
    col: int


def learning_curves(trials: Sequence[TrialResult], scores: Mapping[str, Curve]) -> go.Figure:
    """Return mIoU over epochs, with a line for each trial.

    `scores` are (epoch, mIoU in 0..1) by trial id. The best trial and the config itself have a line
    of their own on top.
    """
    figure = _figure(420)
    best = best_trial(trials)
    for state in STATE_COLOURS:
        _add_curves_of_state(figure, state, [t for t in trials if t.state == state], scores)
    for trial in trials:
        if trial is best:
            _add_highlight(figure, f"best (trial {trial.id})", "solid", scores.get(trial.id))
        elif trial.number == 0:
            name = f"{CONFIG_ITSELF} (trial {trial.id})"
            _add_highlight(figure, name, "dash", scores.get(trial.id))
    figure.update_xaxes(title="epoch", rangemode="tozero")
    return figure.update_yaxes(title="mIoU", rangemode="tozero")


def _add_curves_of_state(
    figure: go.Figure, state: str, trials: Sequence[TrialResult], scores: Mapping[str, Curve]
) -> None:
    # One trace with gaps for all trials of a state: thousands of traces would stall the browser.
    points: list[tuple[int | None, float | None, str]] = []
    for trial in trials:
        if curve := scores.get(trial.id):
            points += [(epoch, 100 * miou, trial.id) for epoch, miou in curve]
            points.append((None, None, trial.id))
    if points:
        epochs, mious, ids = zip(*points, strict=True)
        figure.add_scatter(
            x=epochs,
            y=mious,
            customdata=ids,
            name=state,
            mode="lines+markers",
            opacity=0.75,
            line_color=STATE_COLOURS[state],
            marker_size=7,
            hovertemplate="trial %{customdata}, epoch %{x}: mIoU %{y:.2f}<extra></extra>",
        )


def _add_highlight(figure: go.Figure, name: str, dash: str, curve: Curve | None) -> None:
    if curve:
        figure.add_scatter(
            x=[epoch for epoch, _ in curve],
            y=[100 * miou for _, miou in curve],
            name=name,
            mode="lines+markers",
            hoverinfo="skip",
            line={"color": INK, "width": 2.5, "dash": dash},
            marker={"size": 9, "symbol": "circle-open"},
        )


def miou_by_setting(trials: Sequence[TrialResult], dimensions: Sequence[Dimension]) -> go.Figure:
    """Return a chart for each searched setting: best mIoU over its value, with a point per trial.

    The best trial is a star. Unhealthy and failed trials are crosses, at 0 if they have no mIoU.
    """
    rows = math.ceil(len(dimensions) / COLUMNS)
    figure = make_subplots(
        rows,
        COLUMNS,
        subplot_titles=list(short_names([d.name for d in dimensions]).values()),
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.32 / rows,
    )
    styled(figure, 90 + 230 * rows)
    best = best_trial(trials)
    in_legend = set[str]()
    for index, dimension in enumerate(dimensions):
        cell = Cell(row=index // COLUMNS + 1, col=index % COLUMNS + 1)
        values = [t.params[dimension.name] for t in trials if dimension.name in t.params]
        figure.update_xaxes(_axis(dimension, values), **cell)
        for state in STATE_COLOURS:
            drawn = [t for t in trials if t.state == state and _has_point(t, dimension)]
            if drawn:
                points = _points(state, drawn, dimension, best)
                figure.add_scatter(**points, showlegend=state not in in_legend, **cell)
                in_legend.add(state)
    return figure.update_yaxes(rangemode="tozero").update_yaxes(title="mIoU", col=1)


def _has_point(trial: TrialResult, dimension: Dimension) -> bool:
    return dimension.name in trial.params and (trial.miou is not None or trial.state in BAD_ENDS)


def _points(
    state: str, trials: Sequence[TrialResult], dimension: Dimension, best: TrialResult | None
) -> dict[str, Any]:
    """Return the arguments of a scatter trace with the trials of one state."""
    symbol = "x" if state in BAD_ENDS else "circle"
    return {
        "x": [_coordinate(dimension, trial.params[dimension.name]) for trial in trials],
        "y": [100 * (trial.miou or 0.0) for trial in trials],
        "customdata": [(trial.id, _score(trial)) for trial in trials],
        "mode": "markers",
        "cliponaxis": False,  # points on an axis are drawn whole
        "name": state,
        "legendgroup": state,
        "marker": {
            "color": STATE_COLOURS[state],
            "opacity": 0.8,
            "symbol": ["star" if trial is best else symbol for trial in trials],
            "size": [15 if trial is best else 8 for trial in trials],
        },
        "hovertemplate": "trial %{customdata[0]}: %{customdata[1]} at %{x}<extra></extra>",
    }


def _score(trial: TrialResult) -> str:
    return "no mIoU" if trial.miou is None else f"mIoU {format_miou(trial.miou)}"


def _axis(dimension: Dimension, drawn: Sequence[Any]) -> dict[str, Any]:
    """Return an axis that shows the whole range of a setting, also parts without a trial.

    `drawn` are the values of the trials: that of the config itself may lie outside the range.
    """
    if dimension.kind == "choice":
        return {"type": "category", "categoryorder": "array", "categoryarray": _labels(dimension)}
    is_log = dimension.kind == "loguniform"
    numbers = [v for v in drawn if isinstance(v, int | float) and (v > 0 or not is_log)]
    ends = min(*dimension.values, *numbers), max(*dimension.values, *numbers)
    low, high = (math.log10(end) if is_log else end for end in ends)
    margin = 0.05 * (high - low)
    axis: dict[str, Any] = {"range": [low - margin, high + margin]}
    if not is_log:
        return axis | {"type": "linear"}
    # Below 1.5 decades, powers of ten alone are too few marks. D2 adds marks at 2 and at 5.
    return axis | {"type": "log", "exponentformat": "e", "dtick": "D2" if high - low < 1.5 else 1}


def _labels(dimension: Dimension) -> list[str]:
    """Return the choices as the tables show them, or in full if two would look the same."""
    labels = [format_value(value) for value in dimension.values]
    if len(set(labels)) < len(labels):
        return [repr(value) for value in dimension.values]
    return labels


def _coordinate(dimension: Dimension, value: Any) -> Any:
    """Return where a value lies on the axis of a setting: a number, or the label of a choice."""
    if dimension.kind != "choice":
        return value
    for label, choice in zip(_labels(dimension), dimension.values, strict=True):
        if choice == value:
            return label
    return format_value(value)  # a choice that an extended space does not have any more


def class_ious(
    names: Sequence[str], of_config: Sequence[float | None], of_best: Sequence[float | None]
) -> go.Figure:
    """Return the IoU of each class for the config itself and for the best trial.

    IoUs are in 0..1, or None for a class that is neither labelled nor predicted; such classes are
    left out. The largest gain is at the top. Only the MAX_CLASSES with the largest differences are
    drawn.
    """
    pairs = [
        (100 * before, 100 * after, name)
        for name, before, after in zip(names, of_config, of_best, strict=True)
        if before is not None and after is not None
    ]
    pairs.sort(key=lambda pair: -abs(pair[1] - pair[0]))
    pairs = sorted(pairs[:MAX_CLASSES], key=lambda pair: pair[1] - pair[0])
    figure = _figure(110 + 24 * len(pairs))
    for row, (before, after, _) in enumerate(pairs):
        figure.add_scatter(
            x=[before, after],
            y=[row, row],
            mode="lines",
            line={"color": PALE, "width": 3},
            showlegend=False,
            hoverinfo="skip",
        )
    labels = [name for _, _, name in pairs]
    green = STATE_COLOURS["completed"]
    _add_ious(figure, CONFIG_ITSELF, [before for before, _, _ in pairs], labels, GREY)
    _add_ious(figure, "best", [after for _, after, _ in pairs], labels, green)
    figure.update_xaxes(title="IoU", rangemode="tozero")
    return figure.update_yaxes(tickvals=list(range(len(labels))), ticktext=labels)


def _add_ious(
    figure: go.Figure, name: str, ious: Sequence[float], labels: Sequence[str], colour: str
) -> None:
    figure.add_scatter(
        x=ious,
        y=list(range(len(ious))),
        customdata=labels,
        mode="markers",
        cliponaxis=False,
        name=name,
        marker={"color": colour, "size": 10},
        hovertemplate="%{customdata}: IoU %{x:.2f}<extra>" + name + "</extra>",
    )


def slot_timeline(timeline: Timeline, states: Mapping[str, str]) -> go.Figure:
    """Return what ran in each slot over the time of the search; `states` are by trial id.

    A trial's finished epochs have the colour of its state. The rest of its time is grey.
    """
    unit, unit_s = time_unit(timeline.seconds)
    figure = _figure(150 + 34 * timeline.num_slots)
    whole = [(trial, trial.began, trial.ended) for trial in timeline.intervals]
    _add_bars(figure, OTHER, PALE, whole, unit_s)
    for state, colour in STATE_COLOURS.items():
        epochs = [
            (trial, began, ended)
            for trial in timeline.intervals
            if states.get(trial.trial, RUNNING) == state
            for began, ended in _without_gaps(trial.epochs)
        ]
        _add_bars(figure, state, colour, epochs, unit_s)
    figure.update_layout(barmode="overlay", bargap=0.15)
    figure.update_xaxes(title=f"time of the search ({unit})", range=[0, timeline.seconds / unit_s])
    return figure.update_yaxes(title="slot", dtick=1, range=[timeline.num_slots + 0.5, 0.5])


def _add_bars(
    figure: go.Figure,
    name: str,
    colour: str,
    bars: Sequence[tuple[TrialInterval, float, float]],
    unit_s: int,
) -> None:
    """Add a bar from `began` to `ended`, both in seconds, in the slot of each trial."""
    if bars:
        figure.add_bar(
            orientation="h",
            name=name,
            marker={"color": colour, "line": {"color": "white", "width": 1}},
            y=[trial.slot for trial, _, _ in bars],
            base=[began / unit_s for _, began, _ in bars],
            x=[(ended - began) / unit_s for _, began, ended in bars],
            customdata=[(trial.trial, ended - began) for trial, began, ended in bars],
            hovertemplate="trial %{customdata[0]}: %{customdata[1]:.1f} s<extra>"
            + name
            + "</extra>",
        )


def _without_gaps(epochs: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Join epochs that follow one another within MAX_GAP_S; return (start, end) of each group."""
    joined: list[tuple[float, float]] = []
    for began, ended in epochs:
        if joined and began - joined[-1][1] < MAX_GAP_S:
            began, _ = joined.pop()
        joined.append((began, ended))
    return joined


def _figure(height: int) -> go.Figure:
    return styled(go.Figure(), height)


def styled(figure: go.Figure, height: int) -> go.Figure:
    """Set the fonts, margins and legend that all charts share; `height` is in pixels."""
    return figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 60, "r": 20, "t": 40, "b": 50},
        font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0 + 24 / height, "x": 0},
        hovermode="closest",
    )
