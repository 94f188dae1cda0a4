"""The page of a search run: one HTML file that loads nothing. Its charts are in `charts.py`."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segtune.checks.confirmed_best import confirmation_line
from segtune.checks.forecast_outcome import compare_with_outcome
from segtune.checks.search_limits import read_end
from segtune.errors import RunError
from segtune.reporting.forecast_lines import outcome_caption, outcome_table
from segtune.reporting.format import (
    baseline_note,
    measured_columns,
    next_steps,
    num_ended,
    retrained_line,
    short_names,
)
from segtune.reporting.html_template import html_template
from segtune.reporting.rung_lines import CAPTION as RUNG_CAPTION
from segtune.reporting.rung_lines import rung_lines
from segtune.reporting.what_mattered import importance_chart, mattered_record
from segtune.runs.atomic import write_atomic
from segtune.runs.pareto import pareto_front
from segtune.runs.records import EpochRecord, NetworkProfile
from segtune.runs.results import (
    TrialResult,
    best_trial,
    miou_by_epoch,
    ranked,
    read_trials,
    validated_epochs,
)
from segtune.runs.rundir import SearchDir
from segtune.runs.timeline import Utilisation, timeline, utilisation
from segtune.tuning.proxy_check import check, full_length_study
from segtune.tuning.study import Study

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

log = logging.getLogger(__name__)

TEMPLATE = "report.html.jinja"


@dataclass(frozen=True)
class Chart:
    """A chart with its title and a caption."""

    title: str
    caption: str
    html: str


@dataclass(frozen=True)
class Mattered:
    """What mattered in the search: the record, and what its tables show, in words."""

    record: Mapping[str, Any]  # as in RUN/what_mattered.json
    chart: Chart | None  # None if there are too few trials
    pairs: str  # empty if there are not two settings with an importance
    unhealthy: str  # empty if no trial ended unhealthy


@dataclass(frozen=True)
class Part:
    """One search on the page. A search on a proxy has a second one, its trials at full length."""

    title: str  # empty if the page has one part only
    notes: Sequence[str]  # sentences below the cards
    num_trials: int  # that the search is to have
    num_ended: int
    trials: Sequence[TrialResult]  # by rank
    names: Mapping[str, str]  # of the searched settings: the dotted name, and the column's title
    epochs: int  # of a trial at full length
    best: TrialResult | None
    front: Sequence[TrialResult]  # the best mIoU first; empty unless there are several objectives
    measured: Mapping[str, Callable[[NetworkProfile | None], str]]  # columns, by title
    baseline: TrialResult | None  # trial 0, the config itself
    utilisation: Utilisation | None
    confirmed: str  # the verdict of a confirmation on the best trial, or that there is none
    next_steps: Mapping[str, str]
    forecast: Sequence[tuple[str, str, str, str]]  # beside the outcome; empty before the end
    forecast_caption: str
    rungs: Sequence[Sequence[str]]  # rows of the table; empty if no rung can be judged
    rung_caption: str
    charts: Sequence[Chart]

    @property
    def states(self) -> dict[str, int]:
        """The number of trials in each state."""
        return dict(Counter(trial.state for trial in self.trials))


def write_report(study: Study, run: SearchDir, out: Path | None = None) -> Path:
    """Write the page of a search run as it stands and return its path; default: RUN/report.html.

    What mattered in the search is also written to RUN/what_mattered.json.

    Raise RunError if the file cannot be written.
    """
    out = out or run.report
    mattered = mattered_record(study, run)
    try:
        write_atomic(out, page(study, run, mattered))
    except OSError as error:
        raise RunError(
            f"{out}: the report cannot be written ({error.strerror}); "
            f"write it to another file with: segtune report {run.path} --out FILE"
        ) from None
    if mattered:
        _write_mattered(run, mattered)
    return out


def written_report(study: Study, run: SearchDir) -> str:
    """Write the page at the end of another command; return its path, or why there is none.

    The results are on disk: a report that fails does not change the exit code of the command.
    """
    try:
        return str(write_report(study, run))
    except (RunError, KeyboardInterrupt) as error:
        return f"none; {str(error) or 'interrupted'}"


def _write_mattered(run: SearchDir, mattered: Mapping[str, Any]) -> None:
    """Write what mattered into the folder of the search run, unless this is refused."""
    try:
        write_atomic(run.what_mattered, json.dumps(mattered, indent=1) + "\n")
    except OSError as error:  # for example a folder that only others may write
        log.warning("%s: not written (%s)", run.what_mattered, error.strerror)


def page(study: Study, run: SearchDir, mattered: Mapping[str, Any] | None = None) -> str:
    """Return the page of a search run as HTML; `mattered` is the record of what mattered."""
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    return html_template(TEMPLATE).render(
        name=run.path.name,
        written=time.strftime("%d %B %Y, %H:%M"),
        config=study.config,
        retrained=retrained_line(run),
        parts=_parts(study, run),
        mattered=_mattered(mattered) if mattered else None,
        plotlyjs=Markup(get_plotlyjs()),
    )


def _mattered(record: Mapping[str, Any]) -> Mattered:
    from segtune.checks.what_mattered import pairs_words, unhealthy_words

    caption = (
        "How the values of the best fifth of the trials differ from those of all trials "
        "(PED-ANOVA), as a share of all settings, with a 95 % interval. A pale bar cannot be told "
        "apart from noise."
    )
    settings = record["settings"]
    return Mattered(
        record=record,
        chart=_chart("Importance for mIoU", caption, importance_chart(settings))
        if settings
        else None,
        pairs=pairs_words(record),
        unhealthy=unhealthy_words(record) if record["num_unhealthy"] else "",
    )


def _parts(study: Study, run: SearchDir) -> list[Part]:
    if not (study.search.proxy and run.full.trials.exists()):
        return [_part(study, run)]
    note = check(study, run, run.full).words
    full = _part(full_length_study(study, run), run.full, title="At full length", note=note)
    return [full, _part(study, run, title="On the proxy")]


def _part(study: Study, run: SearchDir, *, title: str = "", note: str = "") -> Part:
    trials = read_trials(run)
    best = best_trial(trials)
    baseline = next((trial for trial in trials if trial.number == 0), None)
    objectives = study.search.objectives
    front = pareto_front(trials, objectives) if study.search.has_front else []
    return Part(
        title=title,
        notes=[words for words in (note, *_ends(run), baseline_note(study, trials)) if words],
        num_trials=study.num_trials,
        num_ended=num_ended(trials),
        trials=ranked(trials),
        names=short_names(study.space.names),
        epochs=study.epochs,
        best=best,
        front=front,
        measured=measured_columns(trials),
        baseline=baseline,
        utilisation=utilisation(run),
        confirmed=confirmation_line(run, best) if best and not run.confirms else "",
        next_steps=next_steps(study, run) if best and not run.confirms else {},
        forecast=outcome_table(compare_with_outcome(study, run)),
        forecast_caption=outcome_caption(run),
        rungs=[rung.cells for rung in rung_lines(study, run)],
        rung_caption=RUNG_CAPTION,
        charts=[
            *_front_charts(trials, front, objectives),
            *_charts(study, run, trials, best, baseline),
        ],
    )


def _ends(run: SearchDir) -> Iterator[str]:
    """Yield why the search has ended before its last trial, if a limit has ended it."""
    if end := read_end(run):
        yield f"The search has ended before its last trial: {end.sentence}."


def _front_charts(
    trials: Sequence[TrialResult], front: Sequence[TrialResult], objectives: Sequence[str]
) -> Iterator[Chart]:
    """Yield the chart of the Pareto front if there is one."""
    from segtune.reporting.front_chart import front_chart

    if front:
        caption = (
            "Best mIoU of each trial over the other objectives. For a trial on the Pareto front, "
            "no other trial is at least as good in every objective and better in one."
        )
        yield _chart("Pareto front", caption, front_chart(trials, front, objectives))


def _charts(
    study: Study,
    run: SearchDir,
    trials: Sequence[TrialResult],
    best: TrialResult | None,
    baseline: TrialResult | None,
) -> Iterator[Chart]:
    """Yield the charts for which there is data."""
    from segtune.reporting import charts

    epochs = {trial.id: validated_epochs(trial, trial.read_verdict()) for trial in run.trial_dirs()}
    scores = {trial: list(miou_by_epoch(records).items()) for trial, records in epochs.items()}
    if any(scores.values()):
        caption = "Validated mIoU of each trial. The colour shows how the trial ended."
        yield _chart("Learning curves", caption, charts.learning_curves(trials, scores))
    if study.space.dimensions and any(trial.params and trial.miou is not None for trial in trials):
        caption = (
            "Best mIoU of each trial over the value of each searched setting. The star is the best "
            "trial. A cross is an unhealthy or failed trial."
        )
        figure = charts.miou_by_setting(trials, study.space.dimensions)
        yield _chart("Settings", caption, figure)
    if baseline is not best:
        yield from _class_chart(study, epochs, baseline, best)
    if spent := timeline(run):
        caption = (
            "Timeline of the trial slots. Colour: training or validating. Grey: starting, saving, "
            "or an unfinished epoch. White: idle."
        )
        states = {trial.id: trial.state for trial in trials}
        yield _chart("Workers' time", caption, charts.slot_timeline(spent, states))


def _class_chart(
    study: Study,
    epochs: Mapping[str, Sequence[EpochRecord]],
    baseline: TrialResult | None,
    best: TrialResult | None,
) -> Iterator[Chart]:
    """Yield the chart that compares the classes of two trials, if both have an IoU per class."""
    from segtune.reporting import charts

    of_config, of_best = _class_iou(epochs, baseline), _class_iou(epochs, best)
    if not (of_config and of_best):
        return
    caption = (
        "IoU of each class in the best epoch, for the config itself and for the best trial. "
        "The class with the largest gain is at the top. Classes that are neither labelled nor "
        "predicted are left out."
    )
    if len(of_best) > charts.MAX_CLASSES:
        caption += (
            f" Of {len(of_best)} classes, the {charts.MAX_CLASSES} that differ most are shown."
        )
    names = _class_names(study, len(of_best))
    yield _chart("Classes", caption, charts.class_ious(names, of_config, of_best))


def _class_iou(
    epochs: Mapping[str, Sequence[EpochRecord]], trial: TrialResult | None
) -> Sequence[float | None]:
    """Return the IoU of each class in a trial's best epoch.

    Empty if it is not known: a resumed trial may be about to repeat that epoch.
    """
    if trial is None:
        return ()
    for record in epochs[trial.id]:
        if record.validation and record.epoch == trial.best_epoch:
            return record.validation.class_iou
    return ()


def _class_names(study: Study, num_classes: int) -> Sequence[str]:
    """Return the names of the classes.

    They are numbers if this machine has no such data set, or by now a different one.
    """
    from segtune.data.layouts import known_class_names

    names = known_class_names(study.config.data)
    if len(names) == num_classes:
        return names
    return [f"class {label}" for label in range(num_classes)]


def _chart(title: str, caption: str, figure: Figure) -> Chart:
    from markupsafe import Markup

    config = {"displayModeBar": False, "responsive": True}
    html = figure.to_html(full_html=False, include_plotlyjs=False, config=config)
    return Chart(title, caption, Markup(html))
