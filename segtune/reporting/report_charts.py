"""The charts of a search run, each with its title and a caption, from the files of the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segtune.reporting.what_mattered import importance_chart, scores_to_compare
from segtune.runs.results import (
    TrialResult,
    best_trial,
    miou_by_epoch,
    read_trials,
    validated_epochs,
)
from segtune.runs.rundir import SearchDir
from segtune.runs.timeline import timeline
from segtune.tuning.study import Study

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True)
class Chart:
    """A chart with its title and a caption."""

    title: str
    caption: str
    html: Markup


def part_charts(
    study: Study, run: SearchDir, trials: Sequence[TrialResult], front: Sequence[TrialResult]
) -> Iterator[Chart]:
    """Yield the charts of a search for which there is data."""
    from segtune.reporting import charts
    from segtune.reporting.front_chart import front_chart

    if front:
        caption = (
            "Best mIoU of each trial over the other objectives. For a trial on the Pareto front, "
            "no other trial is at least as good in every objective and better in one."
        )
        chart = front_chart(trials, front, study.search.objectives)
        yield Chart("Pareto front", caption, chart)
    scores = _curves(run, trials)
    if any(scores.values()):
        caption = (
            "Validated mIoU of each trial. The colour shows how the trial ended, and a dotted "
            "line is a rung, at which trials stop, wait or go on."
        )
        chart = charts.learning_curves(trials, scores, study.rungs())
        yield Chart("Learning curves", caption, chart)
    yield from _setting_charts(study, trials)
    yield from _class_chart(study, run, trials)
    if spent := timeline(run):
        caption = (
            "Timeline of the trial slots. Colour: training or validating. Grey: starting, saving, "
            "or an unfinished epoch. Empty: idle."
        )
        states = {f"{trial.number:04d}": trial.state for trial in trials}
        yield Chart("Workers' time", caption, charts.slot_timeline(spent, states))


def _setting_charts(study: Study, trials: Sequence[TrialResult]) -> Iterator[Chart]:
    from segtune.reporting import charts

    dimensions = study.space.dimensions
    if dimensions and any(trial.params and trial.miou is not None for trial in trials):
        caption = (
            "Best mIoU of each trial over the value of each searched setting. The star is the best "
            "trial. A cross is an unhealthy or failed trial."
        )
        yield Chart("Settings", caption, charts.miou_by_setting(trials, dimensions))
        caption = (
            "Each line is a trial, through its settings to its mIoU at the right. Point at a line, "
            "or at a row of the table, to see the trial in every chart."
        )
        chart = charts.parallel_coordinates(trials, dimensions)
        yield Chart("Parallel coordinates", caption, chart)


def _curves(run: SearchDir, trials: Sequence[TrialResult]) -> dict[str, list[tuple[int, float]]]:
    """Return (epoch, mIoU in 0..1) by the id of a trial."""
    folders = {trial.id: run.trial(trial.number) for trial in trials}
    return {
        name: list(miou_by_epoch(validated_epochs(folder, folder.read_verdict())).items())
        for name, folder in folders.items()
    }


def _class_chart(study: Study, run: SearchDir, trials: Sequence[TrialResult]) -> Iterator[Chart]:
    """Yield the chart that compares the classes of two trials, if both have an IoU per class."""
    from segtune.reporting.class_chart import MAX_CLASSES, class_chart, class_scores

    baseline = next((trial for trial in trials if trial.number == 0), None)
    best = best_trial(trials)
    if baseline is best:
        return
    before, after = class_scores(run, baseline), class_scores(run, best)
    if not (before.margin and after.margin):  # only one of them has fresh seeds
        before, after = (class_scores(run, trial, fresh=False) for trial in (baseline, best))
    if not before.iou or len(before.iou) != len(after.iou):
        return
    caption = "IoU of each class in the best epoch, for the config itself and for the best trial. "
    if before.margin:
        caption = (
            f"IoU of each class: means of {before.num_seeds} and {after.num_seeds} fresh seeds of "
            "the confirmation. A bar is the 95 % interval of one mean, not corrected for the "
            "number of classes. "
        )
    caption += (
        "The class with the largest gain is at the top. Classes that are neither labelled nor "
        "predicted are left out."
    )
    if len(after.iou) > MAX_CLASSES:
        caption += f" Of {len(after.iou)} classes, the {MAX_CLASSES} that differ most are shown."
    chart = class_chart(_class_names(study, len(after.iou)), before, after)
    yield Chart("Classes", caption, chart)


def _class_names(study: Study, num_classes: int) -> Sequence[str]:
    """Return the names of the classes.

    They are numbers if this machine has no such data set, or by now a different one.
    """
    from segtune.data.layouts import known_class_names

    names = known_class_names(study.config.data)
    if len(names) == num_classes:
        return names
    return [f"class {label}" for label in range(num_classes)]


def mattered_charts(study: Study, run: SearchDir, record: Mapping[str, Any]) -> Iterator[Chart]:
    """Yield the importances, and the surface of the two most important settings."""
    settings = record["settings"]
    if not settings:
        return
    caption = (
        "How the values of the best fifth of the trials differ from those of all trials "
        "(PED-ANOVA), as a share of all settings, with a 95 % interval. A pale bar cannot be told "
        f"apart from noise. From {record['num_completed']} completed and {record['num_pruned']} "
        "pruned or paused trials."
    )
    yield Chart("Importance for mIoU", caption, importance_chart(settings))
    if len(settings) > 1:
        yield from _pair_chart(study, run, [row["name"] for row in settings[:2]])


def _pair_chart(study: Study, run: SearchDir, names: Sequence[str]) -> Iterator[Chart]:
    from segtune.reporting.pair_chart import pair_chart

    first, second = (d for name in names for d in study.space.dimensions if d.name == name)
    chart = pair_chart(read_trials(run), scores_to_compare(run), (first, second))
    if chart:
        caption = (
            "Mean mIoU of the trials nearby (Gaussian weights), at full length: what completed "
            "trials gained after its last epoch is added to a pruned or paused trial. The surface "
            "is empty where no trial is near. The star is the best trial."
        )
        yield Chart(f"{names[0]} and {names[1]}", caption, chart)
