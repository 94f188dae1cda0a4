"""What mattered in a search: its record from the run folder, its chart, and lines for the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from segtune.runs.results import miou_by_epoch, read_trials, validated_epochs
from segtune.runs.rundir import SearchDir
from segtune.tuning.study import Study

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def mattered_record(study: Study, run: SearchDir) -> dict[str, Any] | None:
    """Return what mattered in a search run so far; None for a confirmation, which searches nothing.

    `segtune.checks.what_mattered` describes the record.
    """
    if run.confirms:
        return None
    from segtune.checks.what_mattered import what_mattered

    epochs = {trial.id: validated_epochs(trial, trial.read_verdict()) for trial in run.trial_dirs()}
    curves = {trial: miou_by_epoch(records) for trial, records in epochs.items()}
    return what_mattered(study, read_trials(run), curves)


def importance_chart(settings: Sequence[Mapping[str, Any]]) -> Figure:
    """Return a bar for each setting with its interval, the most important at the top.

    `settings` are the rows of the record. Settings that cannot be told apart from noise are pale.
    """
    import plotly.graph_objects as go

    from segtune.reporting.charts import GREY, PALE, STATE_COLOURS, styled

    rows = list(reversed(settings))
    bars = go.Bar(
        orientation="h",
        y=[row["name"] for row in rows],
        x=[100 * row["share"] for row in rows],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [100 * (row["high"] - row["share"]) for row in rows],
            "arrayminus": [100 * (row["share"] - row["low"]) for row in rows],
            "color": GREY,
        },
        marker_color=[STATE_COLOURS["completed"] if row["shown"] else PALE for row in rows],
        customdata=[[100 * row["low"], 100 * row["high"], row["p"]] for row in rows],
        hovertemplate="%{y}: %{x:.0f} %, 95 % interval %{customdata[0]:.0f} to "
        "%{customdata[1]:.0f} %, p %{customdata[2]:.2g}<extra></extra>",
    )
    figure = styled(go.Figure(bars), 90 + 34 * len(rows))
    figure.update_yaxes(automargin=True)
    return figure.update_xaxes(title="share of the importance (%)", rangemode="tozero")
