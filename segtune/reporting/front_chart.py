"""The chart of a Pareto front, as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from segtune.reporting.charts import legend
from segtune.reporting.svg import Axis, Plot
from segtune.runs.pareto import MIOU, objective_values
from segtune.runs.results import TrialResult

TITLES = {"latency_ms": "latency (ms)", "params_m": "parameters (millions)"}
# By class of the mark.
GROUPS = {"s-completed": "on the Pareto front", "baseline": "dominated", "cross": "cannot win"}


def front_chart(
    trials: Sequence[TrialResult], front: Sequence[TrialResult], objectives: Sequence[str]
) -> Markup:
    """Return mIoU over each other objective, with a point for each trial that has both.

    The trials of the front are joined by a line if there are two objectives. Trials that cannot win
    are crosses.
    """
    others = [name for name in objectives if name != MIOU]
    charts = [_chart(trials, front, name, is_joined=len(others) == 1) for name in others]
    return legend(GROUPS) + Markup(
        f'<div class="grid-of-charts wide-charts">{"".join(charts)}</div>'
    )


def _chart(
    trials: Sequence[TrialResult], front: Sequence[TrialResult], name: str, *, is_joined: bool
) -> str:
    chosen = {trial.id for trial in front}
    points: list[tuple[float, float, TrialResult]] = []
    for trial in trials:
        if values := objective_values(trial, (name, MIOU)):
            points.append((values[0], 100 * values[1], trial))
    points.sort(key=lambda point: point[:2])
    x = Axis.over((cost for cost, _, _ in points), TITLES.get(name, name), from_zero=True)
    plot = Plot(x, Axis.over((miou for _, miou, _ in points), "mIoU"), 560, 360)
    on_front = [(cost, miou) for cost, miou, trial in points if trial.id in chosen]
    if is_joined and on_front:
        plot.line(on_front, "curve baseline")
    for cost, miou, trial in points:
        kind = "baseline" if trial.may_win else "cross"
        plot.point(cost, miou, "s-completed" if trial.id in chosen else kind, trial.number)
    return plot.svg(f"mIoU over {name}: {len(points)} trials, {len(front)} on the Pareto front")
