"""The page of several searches: one HTML file that loads nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from markupsafe import Markup

from segtune.reporting.charts import legend, scrolled
from segtune.reporting.compared_searches import (
    ComparedSearch,
    differing_settings,
    warnings_of,
    winner_rows,
)
from segtune.reporting.html_template import html_template
from segtune.reporting.report_charts import Chart
from segtune.reporting.svg import Axis, Plot

TEMPLATE = "compare.html.jinja"
# Colours in the style sheet; further searches share the last one.
NUM_COLOURS = 8

Steps = Sequence[tuple[float, float]]


def compare_page(searches: Sequence[ComparedSearch]) -> str:
    """Return the page: the table, the progress of each search, and the settings that differ."""
    return html_template(TEMPLATE).render(
        name="Comparison of searches",
        written=time.strftime("%d %B %Y, %H:%M"),
        searches=searches,
        warnings=warnings_of(searches),
        charts=list(_charts(searches)),
        winners=winner_rows(searches),
        differing=differing_settings(searches),
    )


def _charts(searches: Sequence[ComparedSearch]) -> Iterator[Chart]:
    by_trial = [search.best_by_trial for search in searches]
    if any(by_trial):
        caption = "Best mIoU of a search after each of its trials, in the order of their numbers."
        yield Chart("Best so far, by trials", caption, _chart(searches, by_trial, "trials"))
    by_hours = [search.progress for search in searches]
    if any(by_hours):
        caption = (
            "Best mIoU of a search after each epoch, over the worker-hours that it has trained and "
            "validated. Searches on other hardware are not comparable in this chart."
        )
        chart = _chart(searches, by_hours, "worker-hours")
        yield Chart("Best so far, by worker-hours", caption, chart)


def _chart(searches: Sequence[ComparedSearch], curves: Sequence[Steps], title: str) -> Markup:
    places = [x for curve in curves for x, _ in curve]
    is_whole = title == "trials"
    x = Axis.over(places, title, is_whole=is_whole, from_zero=True, margin=0.02)
    scores = [100 * y for curve in curves for _, y in curve]
    plot = Plot(x, Axis.over(scores, "best mIoU", from_zero=True), 1100, 380)
    words = []
    for number, (search, curve) in enumerate(zip(searches, curves, strict=True)):
        if curve:
            plot.line(_steps(curve), f"curve r{min(number, NUM_COLOURS - 1)}")
            last = curve[-1]
            words.append(f"{search.name}: {100 * last[1]:.2f} after {last[0]:.3g} {title}")
    names = {f"r{n}": search.name for n, search in enumerate(searches[:NUM_COLOURS])}
    if more := ", ".join(search.name for search in searches[NUM_COLOURS:]):
        names[f"r{NUM_COLOURS - 1}"] += f", {more}"
    chart = plot.svg(f"Best mIoU so far over {title}; {'; '.join(words)}")
    return legend(names) + scrolled(chart, f"Best so far, by {title}")


def _steps(curve: Steps) -> Iterator[tuple[float, float]]:
    """Yield the corners of a curve that only changes at its points; mIoU in per cent."""
    height = 100 * curve[0][1]
    for x, y in curve:
        if 100 * y != height:
            yield x, height
            height = 100 * y
            yield x, height
        elif x in (curve[0][0], curve[-1][0]):
            yield x, height
