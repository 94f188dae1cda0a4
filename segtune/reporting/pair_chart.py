"""mIoU over two settings at once, as a smoothed surface with the trials on top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from markupsafe import Markup

from segtune.reporting.charts import (
    NUM_SHADES,
    coordinate,
    has_place,
    legend,
    scrolled,
    setting_axis,
)
from segtune.reporting.format import short_names
from segtune.reporting.svg import Plot
from segtune.runs.results import BAD_ENDS, TrialResult, best_trial
from segtune.tuning.space import Dimension

CELLS = 24  # along an axis of numbers
# Standard deviation of the smoothing, as a share of the axis; half a cell for categories.
BANDWIDTH = 0.09
# Cells with less weight than one trial at this many standard deviations stay empty.
REACH = 2.0


def pair_chart(
    trials: Sequence[TrialResult],
    scores: Mapping[str, float],
    pair: tuple[Dimension, Dimension],
) -> Markup | None:
    """Return the smoothed score over a pair of settings; None if fewer than five trials have both.

    `scores` are mIoUs in 0..1 by trial id, of trials that can be compared with each other. The
    surface is their mean, weighted by a Gaussian of the distance.
    """
    shown = [t for t in trials if all(has_place(t, d) for d in pair)]
    scored = [t for t in shown if t.id in scores]
    if len(scored) < 5:
        return None
    titles = short_names([d.name for d in pair])
    x, y = (setting_axis(d, [t.params[d.name] for t in shown], titles[d.name]) for d in pair)
    longest = max((len(label) for label in y.labels), default=6)
    plot = Plot(x, y, 760, 440, left=40 + 7 * min(20, max(6, longest)))
    axes = tuple(zip(pair, (x, y), strict=True))
    places = np.array([[a.at(coordinate(d, t.params[d.name], a)) for d, a in axes] for t in scored])
    counts = [len(a.labels) or CELLS for _, a in axes]
    widths = np.array(
        [0.25 / n if a.labels else BANDWIDTH for n, (_, a) in zip(counts, axes, strict=True)]
    )
    values = np.array([100 * scores[t.id] for t in scored])
    surface = _surface(places, values, counts, widths)
    levels = np.nanquantile(surface, np.linspace(0, 1, NUM_SHADES + 1))
    _draw_cells(plot, surface, levels)
    best = best_trial(trials)
    for trial in sorted(shown, key=lambda t: t is best):
        kind = "star best" if trial is best else "hollow"
        kind += " cross" if trial.state in BAD_ENDS else ""
        px, py = (coordinate(d, trial.params[d.name], a) for d, a in axes)
        plot.point(px, py, kind, trial.number)
    entries = {
        f"q{i}": f"{low:.1f} to {high:.1f}" for i, (low, high) in enumerate(pairwise(levels))
    }
    words = _words(pair, surface, len(scored))
    return legend(entries) + scrolled(plot.svg(words), "Surface of two settings")


def _words(pair: tuple[Dimension, Dimension], surface: np.ndarray, num_trials: int) -> str:
    rows, columns = surface.shape
    row, column = np.unravel_index(np.nanargmax(surface), surface.shape)
    return (
        f"Smoothed mIoU over {pair[0].name} and {pair[1].name} of {num_trials} trials, from "
        f"{np.nanmin(surface):.1f} to {np.nanmax(surface):.1f}; it is highest "
        f"{(column + 0.5) / columns:.0%} along the first axis and {(row + 0.5) / rows:.0%} along "
        "the second"
    )


def _surface(
    places: np.ndarray, values: np.ndarray, counts: Sequence[int], widths: np.ndarray
) -> np.ndarray:
    """Return the smoothed values [rows, columns]; NaN far from every trial."""
    columns, rows = ((np.arange(n) + 0.5) / n for n in counts)
    grid = np.stack(np.meshgrid(columns, rows), -1)
    distance = (((grid[:, :, None] - places) / widths) ** 2).sum(-1)
    weights = np.exp(-0.5 * distance)
    total = weights.sum(-1)
    with np.errstate(invalid="ignore"):
        surface = weights @ values / total
    return np.where(total < np.exp(-0.5 * REACH**2), np.nan, surface)


def _draw_cells(plot: Plot, surface: np.ndarray, levels: np.ndarray) -> None:
    rows, columns = surface.shape
    left, right = plot.px_at(0.0), plot.px_at(1.0)
    bottom, top = plot.py_at(0.0), plot.py_at(1.0)
    for row in range(rows):
        for column in range(columns):
            value = surface[row, column]
            if np.isnan(value):
                continue
            shade = int(np.clip(np.searchsorted(levels, value) - 1, 0, NUM_SHADES - 1))
            plot.cell(
                left + column * (right - left) / columns,
                bottom + (row + 1) * (top - bottom) / rows,
                (right - left) / columns,
                (bottom - top) / rows,
                f"q{shade}",
            )
