"""The IoU of each class, of the config itself and of the best trial, with intervals if it can."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from segtune.reporting.charts import CONFIG_ITSELF, legend, scrolled
from segtune.reporting.svg import LETTER, Axis, Plot
from segtune.runs.results import TrialResult, validated_epochs
from segtune.runs.rundir import SearchDir, TrialDir

# A chart with more classes than this cannot be read.
MAX_CLASSES = 40
CONFIDENCE = 0.95


@dataclass(frozen=True)
class ClassScores:
    """The IoU of each class in 0..1; None for a class that is neither labelled nor predicted."""

    iou: Sequence[float | None]
    # Half the width of the interval of the mean over fresh seeds; empty for one training run.
    margin: Sequence[float | None] = ()
    num_seeds: int = 1


def class_iou(trial: TrialDir, best_epoch: int | None = None) -> Sequence[float | None]:
    """Return the IoU of each class in a trial's best epoch; empty if it is not known.

    A resumed trial may be about to repeat that epoch.
    """
    records = validated_epochs(trial, trial.read_verdict())
    if best_epoch is None:
        scored = [(r.validation.miou, -r.epoch, r) for r in records if r.validation]
        records = [max(scored, key=lambda row: row[:2])[2]] if scored else []
    for record in records:
        if record.validation and best_epoch in (None, record.epoch):
            return record.validation.class_iou
    return ()


def class_scores(run: SearchDir, trial: TrialResult | None, *, fresh: bool = True) -> ClassScores:
    """Return the scores of a trial: over the fresh seeds of its confirmation, or of the search.

    Without `fresh`, always those of the search.
    """
    if trial is None:
        return ClassScores(())
    record = run.read_confirmation() if fresh and not run.confirms else None
    for row in (record["baseline"], *record["candidates"]) if record else ():
        if row["trial"] == trial.id:
            by_seed = [class_iou(TrialDir(run.path / path)) for path in _completed(row)]
            if len(by_seed) > 1 and all(len(iou) == len(by_seed[0]) > 0 for iou in by_seed):
                return _over_seeds(by_seed)
    return ClassScores(class_iou(run.trial(trial.number), trial.best_epoch))


def _completed(row: Mapping[str, Any]) -> list[str]:
    return [path for seed, path in row["runs"].items() if row["scores"].get(seed) is not None]


def _over_seeds(fresh: Sequence[Sequence[float | None]]) -> ClassScores:
    """Return means with intervals (Student's t), for each class with a score in every seed."""
    from scipy.stats import t

    factor = float(t.ppf((1 + CONFIDENCE) / 2, len(fresh) - 1)) / len(fresh) ** 0.5
    means: list[float | None] = []
    margins: list[float | None] = []
    for scores in zip(*fresh, strict=True):
        values = [score for score in scores if score is not None]
        is_whole = len(values) == len(fresh)
        means.append(statistics.mean(values) if is_whole else None)
        margins.append(factor * statistics.stdev(values) if is_whole else None)
    return ClassScores(means, margins, len(fresh))


def class_chart(names: Sequence[str], before: ClassScores, after: ClassScores) -> Markup:
    """Return the IoU of each class before and after, the largest gain at the top.

    Classes without a score are left out. Only the MAX_CLASSES that differ most are drawn.
    """
    rows = drawn_classes(before.iou, after.iou)
    labels = [names[label] for label in rows]
    left = 30 + int(LETTER * min(24, max(map(len, labels), default=0)))
    y = Axis.categories(labels)
    plot = Plot(Axis("IoU", 0.0, 100.0), y, 900, 80 + 24 * len(rows), left=left)
    for place, label in enumerate(rows):
        ends = [(100 * (s.iou[label] or 0.0), place) for s in (before, after)]
        plot.line(ends, "gain")
        marks = (("baseline", before, CONFIG_ITSELF, -0.12), ("best", after, "best", 0.12))
        for (kind, scores, name, shift), (iou, _) in zip(marks, ends, strict=True):
            margin = 100 * ((scores.margin[label] if scores.margin else None) or 0.0)
            tip = f"{names[label]}, {name}: IoU {iou:.2f}"
            if margin:
                limits = (max(0.0, iou - margin), min(100.0, iou + margin))
                plot.line([(end, place + shift) for end in limits], f"interval {kind}")
                tip += f" ± {margin:.2f}"
            plot.point(iou, place + (shift if margin else 0.0), f"dot {kind}", tip=tip)
    words = [f"IoU of {len(rows)} classes, {CONFIG_ITSELF} and the best trial"]
    for label in reversed(rows[-3:]):
        ious = (100 * (scores.iou[label] or 0.0) for scores in (before, after))
        words.append("{}: {:.1f} and {:.1f}".format(names[label], *ious))
    entries = {"baseline": CONFIG_ITSELF, "best": "best"}
    return legend(entries) + scrolled(plot.svg("; ".join(words)), "Classes")


def drawn_classes(before: Sequence[float | None], after: Sequence[float | None]) -> list[int]:
    """Return the labels that are drawn, the largest gain last."""
    gains = {
        label: new - old
        for label, (old, new) in enumerate(zip(before, after, strict=True))
        if old is not None and new is not None
    }
    differing = sorted(gains, key=lambda label: -abs(gains[label]))[:MAX_CLASSES]
    return sorted(differing, key=lambda label: gains[label])
