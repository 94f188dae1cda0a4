"""The figures of a run's report. Each takes what is known of the trials and returns a plotly figure; the page is `report.py`'s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from segtune.results import RUNNING, TrialResult, best
from segtune.space import Dimension
from segtune.table import short, short_names
from segtune.utilisation import Span

# Okabe and Ito's colours, which nearly all eyes can tell apart.
COLOURS = {
    "completed": "#009e73", "pruned": "#e69f00", "unhealthy": "#d55e00", "failed": "#cc79a7", "interrupted": "#56b4e9", RUNNING: "#0072b2",
}  # fmt: skip
STARTING = "#c8ccd2"
COLUMNS = 3
# More classes than these are not told apart in one figure; those are shown that differ most.
MOST_CLASSES = 40
Curve = Sequence[tuple[int, float]]


def curves(trials: Sequence[TrialResult], scores: Mapping[str, Curve]) -> go.Figure:
    """Returns validated mIoU over epochs, a line per trial; `scores` are (epoch, mIoU in 0..1) by trial id."""
    figure, winner = _figure(420), best(trials)
    shown = [t for t in trials if scores.get(t.id)]
    for state, colour in COLOURS.items():
        x: list[int | None] = []
        y: list[float | None] = []
        names: list[str] = []
        for trial in shown:
            if trial.state == state:
                # One trace for all trials of a state, with gaps: thousands of traces would stall the browser.
                x += [*(epoch for epoch, _ in scores[trial.id]), None]
                y += [*(100 * miou for _, miou in scores[trial.id]), None]
                names += [trial.id] * (len(scores[trial.id]) + 1)
        if x:
            figure.add_scatter(
                x=x, y=y, customdata=names, name=state, mode="lines+markers", opacity=0.6, line_color=colour, marker_size=4,
                hovertemplate="trial %{customdata}, epoch %{x}: %{y:.2f}<extra></extra>",
            )  # fmt: skip
    for trial, name, style in [(trials[0] if trials else None, "the config itself", "dash"), (winner, "best", "solid")]:
        if trial in shown and trial:
            epochs, mious = zip(*scores[trial.id], strict=True)
            figure.add_scatter(
                x=epochs, y=[100 * miou for miou in mious], name=f"{name} (trial {trial.id})", mode="lines",
                line={"color": "#1b1f24", "width": 2.5, "dash": style}, hoverinfo="skip",
            )  # fmt: skip
    return figure.update_xaxes(title="epoch", rangemode="tozero").update_yaxes(title="mIoU", rangemode="tozero")


def settings(trials: Sequence[TrialResult], dimensions: Sequence[Dimension]) -> go.Figure:
    """Returns best mIoU over the value of each setting that varies, a point per trial; the best is a star, those that ended badly are crosses."""
    rows = -(-len(dimensions) // COLUMNS)
    titles = short_names([d.name for d in dimensions])
    figure = make_subplots(
        rows, COLUMNS, subplot_titles=list(titles.values()), shared_yaxes=True, horizontal_spacing=0.03, vertical_spacing=0.32 / rows
    )
    _style(figure, 90 + 230 * rows)
    told, winner = set[str](), best(trials)
    for index, dimension in enumerate(dimensions):
        row, column = index // COLUMNS + 1, index % COLUMNS + 1
        figure.update_xaxes(_axis(dimension), row=row, col=column)
        for state, colour in COLOURS.items():
            group = [t for t in trials if t.state == state and dimension.name in t.params and (t.miou is not None or state in BAD)]
            if group:
                figure.add_scatter(
                    x=[_shown(dimension, t.params[dimension.name]) for t in group], y=[100 * (t.miou or 0.0) for t in group],
                    customdata=[t.id for t in group], mode="markers", name=state, legendgroup=state, showlegend=state not in told,
                    marker={
                        "color": colour, "opacity": 0.8, "symbol": "x" if state in BAD else ["star" if t is winner else "circle" for t in group],
                        "size": [15 if t is winner else 8 for t in group],
                    },
                    hovertemplate="trial %{customdata}: %{y:.2f} at %{x}<extra></extra>", row=row, col=column,
                )  # fmt: skip
                told.add(state)
    return figure.update_yaxes(rangemode="tozero").update_yaxes(title="mIoU", col=1)


BAD = ("unhealthy", "failed")


def _axis(dimension: Dimension) -> dict[str, Any]:
    if dimension.kind == "choice":
        return {"type": "category", "categoryorder": "array", "categoryarray": [short(v) for v in dimension.values]}
    return {"type": "log", "dtick": 1} if dimension.kind == "loguniform" else {"type": "linear"}


def _shown(dimension: Dimension, value: Any) -> Any:
    return short(value) if dimension.kind == "choice" else value


def classes(names: Sequence[str], config: Sequence[float | None], winner: Sequence[float | None]) -> go.Figure:
    """Returns the IoU of each class in the best epoch of the config itself and of the winner, by what was gained.

    IoUs are in 0..1, None for a class that is neither there nor predicted; such classes are left out.
    """
    pairs = [(name, 100 * a, 100 * b) for name, a, b in zip(names, config, winner, strict=True) if a is not None and b is not None]
    widest = sorted(pairs, key=lambda pair: -abs(pair[2] - pair[1]))[:MOST_CLASSES]
    shown = sorted(widest, key=lambda pair: pair[2] - pair[1])
    labels = [name for name, _, _ in shown]
    figure = _figure(110 + 24 * len(shown))
    for name, a, b in shown:
        figure.add_scatter(x=[a, b], y=[name, name], mode="lines", line={"color": STARTING, "width": 3}, showlegend=False, hoverinfo="skip")
    for title, values, colour in [
        ("the config itself", [a for _, a, _ in shown], "#6a737d"),
        ("best", [b for _, _, b in shown], COLOURS["completed"]),
    ]:
        figure.add_scatter(
            x=values, y=labels, mode="markers", name=title, marker={"color": colour, "size": 10},
            hovertemplate="%{y}: %{x:.2f}<extra>" + title + "</extra>",
        )  # fmt: skip
    return figure.update_xaxes(title="IoU", rangemode="tozero").update_yaxes(type="category")


def workers_time(spans: Sequence[Span], states: Mapping[str, str]) -> go.Figure:
    """Returns what the trials did when, a row for each place; `states` are by trial id. White is time that nobody used."""
    longest = max((span.ended for span in spans), default=0.0)
    unit, seconds = ("hours", 3600.0) if longest > 5400 else ("minutes", 60.0) if longest > 90 else ("seconds", 1.0)
    figure = _figure(150 + 34 * max((span.place for span in spans), default=1))
    kinds = {"starting": STARTING, **COLOURS}
    for kind, colour in kinds.items():
        group = [s for s in spans if (s.doing if s.doing == "starting" else states.get(s.trial)) == kind]
        if group:
            figure.add_bar(
                orientation="h", name=kind, marker={"color": colour, "line": {"color": "white", "width": 1}},
                y=[s.place for s in group], base=[s.began / seconds for s in group], x=[(s.ended - s.began) / seconds for s in group],
                customdata=[(s.trial, s.ended - s.began) for s in group],
                hovertemplate="trial %{customdata[0]}: " + kind + ", %{customdata[1]:.1f} s<extra></extra>",
            )  # fmt: skip
    figure.update_layout(barmode="overlay", bargap=0.15)
    return figure.update_xaxes(title=f"{unit} of search", rangemode="tozero").update_yaxes(title="place", dtick=1, autorange="reversed")


def _figure(height: int) -> go.Figure:
    return _style(go.Figure(), height)


def _style(figure: go.Figure, height: int) -> go.Figure:
    return figure.update_layout(
        template="plotly_white", height=height, margin={"l": 60, "r": 20, "t": 40, "b": 50}, font={"family": "system-ui, sans-serif", "size": 13},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0 + 24 / height, "x": 0}, hovermode="closest",
    )  # fmt: skip
