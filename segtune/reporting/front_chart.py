"""The chart of a Pareto front, as a plotly figure."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from segtune.reporting.charts import GREY, INK, PALE, STATE_COLOURS, Cell, styled
from segtune.reporting.format import format_miou
from segtune.runs.pareto import MIOU, objective_values
from segtune.runs.results import TrialResult

TITLES = {"latency_ms": "latency (ms)", "params_m": "parameters (millions)"}
ON_FRONT = "on the Pareto front"


def front_chart(
    trials: Sequence[TrialResult], front: Sequence[TrialResult], objectives: Sequence[str]
) -> go.Figure:
    """Return mIoU over each other objective, with a point for each trial that has both.

    The trials of the front are joined by a line if there are two objectives. Trials that cannot win
    are crosses.
    """
    others = [name for name in objectives if name != MIOU]
    figure = make_subplots(1, len(others), shared_yaxes=True, horizontal_spacing=0.03)
    styled(figure, 420)
    chosen = {trial.id for trial in front}
    rest = [trial for trial in trials if trial.id not in chosen]
    groups = {
        "dominated": [trial for trial in rest if trial.may_win],
        "cannot win": [trial for trial in rest if not trial.may_win],
        ON_FRONT: front,
    }
    for column, name in enumerate(others, 1):
        cell = Cell(row=1, col=column)
        for group, members in groups.items():
            _add_points(figure, group, members, name, joined=len(others) == 1, cell=cell)
        figure.update_xaxes(title=TITLES.get(name, name), rangemode="tozero", **cell)
    return figure.update_yaxes(title="mIoU", col=1)


def _add_points(
    figure: go.Figure,
    group: str,
    trials: Sequence[TrialResult],
    objective: str,
    *,
    joined: bool,
    cell: Cell,
) -> None:
    points = [
        (cost, 100 * miou, trial.id, format_miou(miou))
        for trial in trials
        if (values := objective_values(trial, (objective, MIOU)))
        for cost, miou in [values]
    ]
    if not points:
        return
    is_front = group == ON_FRONT
    points.sort()
    colours = {ON_FRONT: STATE_COLOURS["completed"], "dominated": GREY}
    figure.add_scatter(
        x=[point[0] for point in points],
        y=[point[1] for point in points],
        customdata=[point[2:] for point in points],
        name=group,
        legendgroup=group,
        showlegend=cell["col"] == 1,
        mode="lines+markers" if is_front and joined else "markers",
        line={"color": INK, "width": 1.5, "dash": "dot"},
        cliponaxis=False,
        marker={
            "color": colours.get(group, PALE),
            "size": 12 if is_front else 8,
            "symbol": "circle" if group in colours else "x",
        },
        hovertemplate="trial %{customdata[0]}: mIoU %{customdata[1]} at %{x:.4g}<extra></extra>",
        **cell,
    )
