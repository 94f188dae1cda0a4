"""What mattered in a search: its record from the run folder, its chart, and lines for the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from segtune.runs.results import miou_by_epoch, read_trials, validated_epochs
from segtune.runs.rundir import SearchDir
from segtune.tuning.study import Study

if TYPE_CHECKING:
    from markupsafe import Markup


def mattered_record(study: Study, run: SearchDir) -> dict[str, Any] | None:
    """Return what mattered in a search run so far; None for a confirmation, which searches nothing.

    `segtune.checks.what_mattered` describes the record.
    """
    if run.confirms:
        return None
    from segtune.checks.what_mattered import what_mattered

    return what_mattered(study, read_trials(run), _curves(run))


def importance_chart(settings: Sequence[Mapping[str, Any]]) -> Markup:
    """Return a bar for each setting with its interval, the most important at the top.

    `settings` are the rows of the record. Settings that cannot be told apart from noise are pale.
    """
    from segtune.reporting.charts import legend, scrolled
    from segtune.reporting.svg import LETTER, Axis, Plot

    rows = list(reversed(settings))
    left = 20 + int(LETTER * max(len(row["name"]) for row in rows))
    x = Axis("share of the importance (%)", 0.0, 100 * max(row["high"] for row in rows) + 2)
    plot = Plot(x, Axis.categories([row["name"] for row in rows]), 900, 70 + 30 * len(rows), left)
    words = []
    for place, row in enumerate(rows):
        share, low, high = (100 * row[key] for key in ("share", "low", "high"))
        plot.bar((0.0, place - 0.35), (share, place + 0.35), "shown" if row["shown"] else "pale")
        plot.line([(low, place), (high, place)], "interval")
        words.append(f"{row['name']} {share:.0f} % ({low:.0f} to {high:.0f})")
    entries = {"shown": "p below 0.05", "pale": "cannot be told apart from noise"}
    chart = plot.svg(f"Importance for mIoU: {'; '.join(reversed(words))}")
    return legend(entries) + scrolled(chart, "Importance for mIoU")


def scores_to_compare(run: SearchDir) -> dict[str, float]:
    """Return {trial id: estimated mIoU at full length, in 0..1} of the trials that have ended."""
    from segtune.checks.what_mattered import comparable_scores

    return comparable_scores(read_trials(run), _curves(run))


def _curves(run: SearchDir) -> dict[str, dict[int, float]]:
    """Return {epoch: mIoU in 0..1} of each trial by its id."""
    epochs = {trial.id: validated_epochs(trial, trial.read_verdict()) for trial in run.trial_dirs()}
    return {trial: miou_by_epoch(records) for trial, records in epochs.items()}
