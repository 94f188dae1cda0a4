"""A figure of curves as a picture, by matplotlib. What it shows is decided in `curve_layout.py`."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from segtune.reporting.curve_layout import (
    MAX_MARKERS,
    Figure,
    Line,
    Panel,
    Style,
    labelled_lines,
    spread,
    words_beside,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

INK = "#1b1f24"
SOFT = "#5b6570"
GRID = "#dfe3e8"
DASHES = {"solid": "-", "dash": (0, (5, 2)), "dot": (0, (1.2, 1.4)), "dashdot": (0, (6, 2, 1.2, 2))}
LABEL_SIZE = 8.0  # points
PANEL_INCHES = (8.5, 3.3)
DPI = 130
# From this many panels, two stand side by side.
MIN_COLUMNS_PANELS = 4
# Place of the label of a best value, in widths of the panel.
LABEL_X = 1.045
# How many letters of the legend fit in one inch.
LETTERS_PER_INCH = 13.5


def draw_png(figure: Figure, file_format: str) -> bytes:
    """Return the picture as the bytes of a file: png, svg or pdf."""
    from matplotlib.figure import Figure as Canvas

    num_columns = 2 if len(figure.panels) >= MIN_COLUMNS_PANELS else 1
    num_rows = math.ceil(len(figure.panels) / num_columns)
    width = PANEL_INCHES[0] * (1.0 if num_columns == 1 else 1.6)
    num_legend = _legend_columns(figure, width)
    legend_inches = 0.2 * math.ceil(len(_legend_runs(figure)) / num_legend)
    height = PANEL_INCHES[1] * num_rows + 0.4 + legend_inches
    canvas = Canvas(figsize=(width, height), layout="constrained", dpi=DPI)
    cells = canvas.subplots(num_rows, num_columns, squeeze=False).flat
    axes = [next(cells) for _ in figure.panels]
    for rest in cells:
        rest.set_visible(False)
    for cell, panel in zip(axes, figure.panels, strict=True):
        _draw_panel(cell, panel, figure)
    _add_legend(canvas, figure, num_legend)
    if figure.title:
        canvas.suptitle(figure.title, parse_math=False, color=INK)
    with warnings.catch_warnings():
        # matplotlib's font has no Chinese, Japanese and Korean letters; the page shows them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        canvas.draw_without_rendering()  # the size of the panels is known only now
        for cell, panel in zip(axes, figure.panels, strict=True):
            _add_labels(cell, panel, figure.styles)
        buffer = io.BytesIO()
        # No date: the same runs give the same file.
        stamp = {"Software": "segtune plot"} if file_format == "png" else {}
        canvas.savefig(buffer, format=file_format, metadata=stamp)
    return buffer.getvalue()


def _draw_panel(axes: Axes, panel: Panel, figure: Figure) -> None:
    # Grey lines first, and the first run on top.
    for line in reversed(panel.lines):
        _draw_line(axes, panel, line, figure.styles[line.run])
    axes.set_title(panel.title, loc="left", fontsize=10, color=INK, parse_math=False)
    axes.set_xlabel(figure.x_title, fontsize=9)
    axes.tick_params(labelsize=8, color=GRID)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if panel.is_log:
        axes.set_yscale("log")
    elif panel.from_zero:
        axes.set_ylim(bottom=0)
    axes.margins(x=0.02)
    heading = {"fontsize": LABEL_SIZE, "color": SOFT, "transform": axes.transAxes}
    axes.text(LABEL_X, 1.03, panel.mark_name, **heading)
    # Reserves the room for the labels, which come when the size of the panel is known.
    for line in labelled_lines(panel, figure.styles, _gap(axes)):
        axes.text(LABEL_X, 0.5, line.label, fontsize=LABEL_SIZE, transform=axes.transAxes)


def _draw_line(axes: Axes, panel: Panel, line: Line, style: Style) -> None:
    marks = len(line.xs) <= MAX_MARKERS and style.is_told_apart
    axes.plot(
        line.xs,
        line.ys,
        color=style.colour,
        linestyle=DASHES[style.dash],
        linewidth=1.6 if len(line.xs) <= MAX_MARKERS else 1.1,
        marker="o" if marks else "",
        markersize=3,
        zorder=2.5 if style.is_told_apart else 2,
    )
    if style.is_told_apart and panel.marks_best:
        best = line.xs[line.mark], line.ys[line.mark]
        axes.plot(
            *best, marker="*", markersize=11, color=style.colour, markeredgecolor="white", zorder=4
        )
    if line.ending and style.is_told_apart:
        _mark_end(axes, panel, line, style)


def _mark_end(axes: Axes, panel: Panel, line: Line, style: Style) -> None:
    """Mark the end of a run that went wrong, and say why."""
    end = line.xs[-1], line.ys[-1]
    axes.plot(*end, marker="X", markersize=9, color=style.colour, markeredgecolor=INK, zorder=5)
    side, up = words_beside(panel, line)
    axes.annotate(
        line.ending,
        end,
        xytext=(8 * side, 8 * up),
        textcoords="offset points",
        ha={-1: "right", 0: "center", 1: "left"}[side],
        va="bottom" if up > 0 else "top",
        fontsize=LABEL_SIZE,
        color=INK,
        bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "alpha": 0.8, "lw": 0},
        zorder=6,
    )


def _gap(axes: Axes) -> float:
    """Return the height of a label relative to the height of the panel."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    height_inches = axes.get_position().height * figure.get_figheight()
    return 1.25 * LABEL_SIZE / 72 / height_inches


def _add_labels(axes: Axes, panel: Panel, styles: Sequence[Style]) -> None:
    """Write the best value of each run to the right of the panel, without overlaps."""
    for text in list(axes.texts):
        if text.get_transform() is axes.transAxes and text.get_text() != panel.mark_name:
            text.remove()
    lines = labelled_lines(panel, styles, _gap(axes))
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = [
        float(to_axes.transform((line.xs[line.mark], line.ys[line.mark]))[1]) for line in lines
    ]
    for line, height, place in zip(lines, heights, spread(heights, _gap(axes)), strict=True):
        style = styles[line.run]
        axes.plot(
            [1.004, LABEL_X - 0.004],
            [height, place],
            color=style.colour,
            linestyle=DASHES[style.dash],
            linewidth=1.4,
            transform=axes.transAxes,
            clip_on=False,
        )
        axes.text(
            LABEL_X, place, line.label, fontsize=LABEL_SIZE, va="center", transform=axes.transAxes
        )


def _legend_runs(figure: Figure) -> list[int]:
    return [run for run, style in enumerate(figure.styles) if style.is_told_apart]


def _legend_columns(figure: Figure, width: float) -> int:
    longest = max(len(figure.legend[run]) for run in _legend_runs(figure))
    return max(1, min(4, len(_legend_runs(figure)), int(width * LETTERS_PER_INCH / (longest + 8))))


def _add_legend(canvas: Canvas, figure: Figure, num_columns: int) -> None:
    from matplotlib.lines import Line2D

    styles = [figure.styles[run] for run in _legend_runs(figure)]
    names = [figure.legend[run] for run in _legend_runs(figure)]
    if others := len(figure.styles) - len(styles):
        styles.append(next(style for style in figure.styles if not style.is_told_apart))
        names.append(f"{others} more")
    handles = [
        Line2D([], [], color=style.colour, linestyle=DASHES[style.dash], linewidth=1.8)
        for style in styles
    ]
    # matplotlib leaves out names that begin with an underscore, so the names are set afterwards.
    legend = canvas.legend(
        handles,
        ["name"] * len(handles),
        loc="outside lower center",
        ncols=num_columns,
        fontsize=9,
        frameon=False,
        handlelength=3.2,
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name)
