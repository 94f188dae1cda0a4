"""A figure of curves as an HTML page that loads nothing. What it shows is in `curve_layout.py`."""

from __future__ import annotations

import html
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from segtune.reporting.curve_layout import (
    MAX_MARKERS,
    Figure,
    Line,
    Panel,
    format_number,
    labelled_lines,
    spread,
    words_beside,
)
from segtune.reporting.curve_table import pace_of, place_of
from segtune.reporting.curves import RunCurves, best_point, direction
from segtune.reporting.format import format_duration

TEMPLATE = "curves.html.jinja"
INK = "#1b1f24"
# Pixels.
PANEL_HEIGHT = 300
PANEL_GAP = 90
MARGIN_TOP, MARGIN_BOTTOM, MARGIN_LEFT = 50, 60, 60
LABEL_HEIGHT = 15
LABEL_WIDTH = 90
LEGEND_LINE = 75
LETTER_WIDTH = 6.6
MAX_LEGEND = 330


def curves_page(figure: Figure, runs: Sequence[RunCurves], keys: Sequence[str]) -> str:
    """Return the page: the figure, and the tables of times and best values."""
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    config = {"displayModeBar": False, "responsive": True}
    chart = draw_plotly(figure).to_html(full_html=False, include_plotlyjs=False, config=config)
    return environment.get_template(TEMPLATE).render(
        title=figure.title or f"Curves of {len(runs)} training run{'s' * (len(runs) > 1)}",
        written=time.strftime("%d %B %Y, %H:%M"),
        keys=[f"{'best' if direction(key) else 'last'} {key}" for key in keys],
        rows=[_row(run, keys) for run in runs],
        chart=Markup(chart),
        plotlyjs=Markup(get_plotlyjs()),
    )


def _row(run: RunCurves, keys: Sequence[str]) -> dict[str, object]:
    """Return a row of the table as text."""
    pace = pace_of(run.stretches)
    values: list[str] = []
    for key in keys:
        if key in run.series:
            best = best_point(key, run.series[key])
            values.append(f"{format_number(key, best.value)} ({place_of(best)})")
        else:
            values.append("-")
    return {
        "name": run.name,
        "path": str(run.path),
        "state": f"{run.state}: {run.reason}" if run.reason else run.ending or run.state or "-",
        "total": "-" if run.seconds is None else format_duration(run.seconds),
        "pace": "-" if pace is None else f"{pace.mean:.4g}",
        "values": values,
    }


def draw_plotly(figure: Figure) -> go.Figure:
    """Return the figure by plotly."""
    num_panels = len(figure.panels)
    inner = PANEL_HEIGHT * num_panels + PANEL_GAP * (num_panels - 1)
    plot = make_subplots(
        num_panels,
        1,
        vertical_spacing=PANEL_GAP / inner if num_panels > 1 else 0,
        subplot_titles=[html.escape(panel.title) for panel in figure.panels],
    )
    widest = max(len(name) for name in figure.legend) * LETTER_WIDTH + LEGEND_LINE
    plot.update_layout(
        template="plotly_white",
        height=inner + MARGIN_TOP + MARGIN_BOTTOM,
        margin={
            "l": MARGIN_LEFT,
            "r": LABEL_WIDTH + min(widest, MAX_LEGEND),
            "t": MARGIN_TOP,
            "b": MARGIN_BOTTOM,
        },
        font={"family": "system-ui, sans-serif", "size": 13, "color": INK},
        legend={"xref": "container", "x": 1, "xanchor": "right", "y": 1, "yanchor": "top"},
        hovermode="closest",
    )
    # The title of a panel stands at its left end, as in the picture.
    plot.update_annotations(x=0, xanchor="left", font_size=14)
    in_legend: set[int] = set()
    for row, panel in enumerate(figure.panels, 1):
        for line in reversed(panel.lines):
            _add_line(plot, figure, panel, line, row, in_legend)
        _set_axes(plot, figure, panel, row)
        _add_labels(plot, figure, panel, row)
    return plot


def _add_line(
    plot: go.Figure, figure: Figure, panel: Panel, line: Line, row: int, in_legend: set[int]
) -> None:
    """Draw a line with its marks. All grey lines share an entry of the legend."""
    style = figure.styles[line.run]
    name = html.escape(figure.legend[line.run])
    entry, entry_name = line.run, name
    if not style.is_told_apart:
        entry = len(figure.styles)
        entry_name = f"{sum(not other.is_told_apart for other in figure.styles)} more"
    has_markers = len(line.xs) <= MAX_MARKERS and style.is_told_apart
    place = {"legendgroup": str(entry), "legendrank": entry, "row": row, "col": 1}
    plot.add_scatter(
        x=line.xs,
        y=line.ys,
        name=entry_name,
        mode="lines+markers" if has_markers else "lines",
        line={"color": style.colour, "dash": style.dash, "width": 2 if has_markers else 1.5},
        marker_size=5,
        showlegend=entry not in in_legend,
        hovertemplate=_hover(figure, name, ": %{y:.5g}"),
        **place,
    )
    in_legend.add(entry)
    if style.is_told_apart:
        for mark in _marks(figure, panel, line):
            plot.add_scatter(**mark, **place, cliponaxis=False, showlegend=False)


def _hover(figure: Figure, name: str, text: str) -> str:
    return f"{html.escape(figure.x_title)} %{{x:.5g}}{text}<extra>{name}</extra>"


def _marks(figure: Figure, panel: Panel, line: Line) -> list[dict[str, Any]]:
    """Return a star at the best value of a line, and a cross at the end of one that went wrong."""
    colour = figure.styles[line.run].colour
    name = html.escape(figure.legend[line.run])
    marks: list[dict[str, Any]] = []
    if panel.marks_best:
        marks.append(
            {
                "x": [line.xs[line.mark]],
                "y": [line.ys[line.mark]],
                "mode": "markers",
                "marker": {"symbol": "star", "size": 13, "color": colour}
                | {"line": {"color": "white", "width": 1}},
                "hovertemplate": _hover(figure, name, f": best {line.label}"),
            }
        )
    if line.ending:
        side, up = words_beside(panel, line)
        across = {-1: "left", 0: "center", 1: "right"}[side]
        marks.append(
            {
                "x": [line.xs[-1]],
                "y": [line.ys[-1]],
                "mode": "markers+text",
                "text": [line.ending],
                "textposition": f"{'top' if up > 0 else 'bottom'} {across}",
                "marker": {"symbol": "x", "size": 12, "color": colour}
                | {"line": {"color": INK, "width": 1}},
                "hovertemplate": _hover(figure, name, f": {line.ending}"),
            }
        )
    return marks


def _y_range(panel: Panel) -> tuple[float, float]:
    """Return the ends of the vertical axis; powers of ten if it is logarithmic."""
    values = [y for line in panel.lines for y in line.ys]
    if panel.is_log:
        values = [math.log10(value) for value in values]
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return (0.0 if panel.from_zero else low - margin), high + margin


def _set_axes(plot: go.Figure, figure: Figure, panel: Panel, row: int) -> None:
    positions = [x for line in panel.lines for x in line.xs]
    low, high = min(positions), max(positions)
    margin = 0.02 * (high - low) or 0.5
    plot.update_xaxes(title=figure.x_title, range=[low - margin, high + margin], row=row, col=1)
    kind = "log" if panel.is_log else "linear"
    plot.update_yaxes(type=kind, range=list(_y_range(panel)), row=row, col=1)
    if panel.is_log:
        plot.update_yaxes(exponentformat="power", dtick=1, row=row, col=1)


def _add_labels(plot: go.Figure, figure: Figure, panel: Panel, row: int) -> None:
    """Write the best value of each run to the right of the panel, without overlaps."""
    low, high = _y_range(panel)
    gap = LABEL_HEIGHT / PANEL_HEIGHT
    lines = labelled_lines(panel, figure.styles, gap)
    values = [line.ys[line.mark] for line in lines]
    places = [math.log10(value) if panel.is_log else value for value in values]
    heights = [(place - low) / (high - low) for place in places]
    number = "" if row == 1 else str(row)
    axes = {"xref": f"x{number} domain", "yref": f"y{number} domain"}
    for line, height, place in zip(lines, heights, spread(heights, gap), strict=True):
        plot.add_annotation(
            x=1.0,
            y=height,
            ax=22,
            ay=(height - place) * PANEL_HEIGHT,
            text=line.label,
            xanchor="left",
            arrowhead=0,
            arrowwidth=1.5,
            arrowcolor=figure.styles[line.run].colour,
            font_size=12,
            **axes,
        )
    plot.add_annotation(
        x=1.0,
        y=1.0,
        xshift=24,
        yshift=22,
        text=panel.mark_name,
        xanchor="left",
        showarrow=False,
        font={"size": 12, "color": "#5b6570"},
        **axes,
    )
