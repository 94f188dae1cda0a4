"""Figures of the search benchmark: regret over the budget, and the critical-difference diagram."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.search.measures import OURS, Anytime, RankComparison, alike_groups
from segtune.reporting.curve_layout import COLOURS
from segtune.reporting.curve_png import DASHES, GRID, INK, SOFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 130
LABEL_SIZE = 8.0  # points
LEGEND_COLUMNS = 2
# Distances of the critical-difference diagram, in rows of its names.
ROW_INCHES = 0.22
GROUP_ROWS = 0.4
NAMES_GAP = 0.9
TOP_ROWS = 2.4


@dataclass(frozen=True)
class LineStyle:
    """How the line of a method looks."""

    colour: str
    dash: Any
    width: float  # points


def line_styles(methods: Sequence[str]) -> dict[str, LineStyle]:
    """Return the style of each method; those of segtune come first and have wider lines."""
    dashes = list(DASHES.values())
    styles: dict[str, LineStyle] = {}
    ordered = sorted(methods, key=lambda method: (not method.startswith(OURS), method))
    for i, method in enumerate(ordered):
        dash = dashes[i // len(COLOURS) % len(dashes)]
        width = 2.4 if method.startswith(OURS) else 1.3
        styles[method] = LineStyle(COLOURS[i % len(COLOURS)], dash, width)
    return styles


def draw_anytime(
    path: Path,
    title: str,
    shares: np.ndarray,
    curves: Mapping[str, Anytime],
    styles: Mapping[str, LineStyle],
) -> None:
    """Draw the regret of each method over shares of the budget [P], with its band.

    The curve of a method has the shape [1, P]. The suffix of `path` decides the format.
    """
    legend_rows = math.ceil(len(curves) / LEGEND_COLUMNS)
    figure = _new_figure(8.5, 3.9 + 0.19 * legend_rows)
    figure.set_layout_engine("constrained")  # makes room for the legend below
    axes = figure.subplots()
    for method, curve in curves.items():
        _draw_curve(axes, shares, method, curve, styles[method])
    # A regret can be 0 or below, if a search finds the best config or a better one.
    if all((curve.mean > 0).all() for curve in curves.values()):
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter("")
        _label_regrets(axes)
    _decorate(axes, title)
    place = "outside lower left"
    figure.legend(loc=place, fontsize=LABEL_SIZE, frameon=False, ncols=LEGEND_COLUMNS)
    _save(figure, path)


def _draw_curve(
    axes: Axes, shares: np.ndarray, method: str, curve: Anytime, style: LineStyle
) -> None:
    low, high, mean = curve.low[0], curve.high[0], curve.mean[0]
    colour = style.colour
    axes.fill_between(shares, low, high, step="post", color=colour, alpha=0.12, linewidth=0)
    line = {"color": colour, "linestyle": style.dash, "linewidth": style.width}
    axes.step(shares, mean, where="post", label=method, **line)


def _label_regrets(axes: Axes) -> None:
    """Label a logarithmic axis with plain numbers."""
    low, high = axes.get_ylim()
    ticks = [factor * 10.0**power for power in range(-6, 3) for factor in (1, 2, 5)]
    shown = [tick for tick in ticks if low <= tick <= high]
    axes.set_yticks(shown, [f"{tick:g}" for tick in shown])


def _decorate(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set_xlabel("share of the budget that is spent", fontsize=9)
    axes.set_ylabel("normalised regret (0: best, 1: median config)", fontsize=9)
    axes.tick_params(labelsize=LABEL_SIZE, color=GRID)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_xlim(0, 1)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def draw_ranks(path: Path, title: str, methods: Sequence[str], ranks: RankComparison) -> None:
    """Draw the critical-difference diagram of methods [M] (Demsar 2006, figure 1).

    The best method is on the left. A bar connects methods whose mean ranks do not differ.
    """
    order: list[int] = np.argsort(ranks.mean_ranks, kind="stable").tolist()
    sorted_ranks = ranks.mean_ranks[order].tolist()
    names = [methods[i] for i in order]
    groups = alike_groups(sorted_ranks, ranks.critical_difference)
    first_row = NAMES_GAP + GROUP_ROWS * len(groups)
    num_rows = first_row + (len(methods) + 1) // 2
    figure = _new_figure(5.0, ROW_INCHES * (TOP_ROWS + num_rows))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(1, len(methods))
    axes.set_ylim(num_rows, -TOP_ROWS)
    axes.axis("off")
    _draw_scale(axes, len(methods), ranks.critical_difference)
    overhang = (len(methods) - 1) / 200
    for i, (first, last) in enumerate(groups):
        y = 0.5 + GROUP_ROWS * i
        ends = sorted_ranks[first] - overhang, sorted_ranks[last] + overhang
        axes.plot(ends, (y, y), color=INK, linewidth=3, clip_on=False, solid_capstyle="butt")
    _draw_names(axes, names, sorted_ranks, first_row)
    axes.text(1, -TOP_ROWS - 0.4, title, va="bottom", fontsize=9, color=INK)
    _save(figure, path)


def _draw_scale(axes: Axes, num_methods: int, difference: float) -> None:
    """Draw the axis of ranks at y = 0, and above it the length of the critical difference."""
    line = {"color": INK, "linewidth": 1, "clip_on": False}
    axes.plot((1, num_methods), (0, 0), **line)
    for rank in range(1, num_methods + 1):
        axes.plot((rank, rank), (0, -0.25), **line)
        axes.text(rank, -0.4, str(rank), ha="center", va="bottom", fontsize=LABEL_SIZE)
    axes.plot((1, 1 + difference), (-1.7, -1.7), **line)
    for end in (1, 1 + difference):
        axes.plot((end, end), (-1.55, -1.85), **line)
    label = f"critical difference {difference:.2f}"
    axes.text(1, -1.9, label, va="bottom", fontsize=LABEL_SIZE, color=SOFT)


def _draw_names(
    axes: Axes, names: Sequence[str], sorted_ranks: Sequence[float], first_row: float
) -> None:
    """Draw the names of the better half on the left, and of the other half on the right.

    The outermost ranks are in the top row, so that no line crosses another one.
    """
    num_left = (len(names) + 1) // 2
    gap = (len(names) - 1) / 100  # in ranks: a hundredth of the width
    for i, (name, rank) in enumerate(zip(names, sorted_ranks, strict=True)):
        is_left = i < num_left
        y = first_row + (i if is_left else len(names) - 1 - i)
        edge = 1 - 2 * gap if is_left else len(names) + 2 * gap
        axes.plot((rank, rank, edge), (0, y, y), color=SOFT, linewidth=0.8, clip_on=False)
        axes.text(
            edge - gap if is_left else edge + gap,
            y,
            f"{name}  {rank:.2f}" if is_left else f"{rank:.2f}  {name}",
            ha="right" if is_left else "left",
            va="center",
            fontsize=LABEL_SIZE,
            fontweight="bold" if name.startswith(OURS) else "normal",
            color=INK,
        )


def _new_figure(width: float, height: float) -> Figure:
    """Return an empty figure; width and height are in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI)


def _save(figure: Figure, path: Path) -> None:
    import matplotlib

    # No date and no random names: the same results give the same file.
    stamp = {"Date": None} if path.suffix == ".svg" else {}
    with matplotlib.rc_context({"svg.hashsalt": "segtune"}):
        figure.savefig(path, bbox_inches="tight", metadata=stamp)
