"""The page of a search run: one HTML file that loads nothing."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from segtune.errors import DataError, RunError
from segtune.reporting.format import format_value, next_steps, num_ended, short_names
from segtune.runs.atomic import write_atomic
from segtune.runs.records import EpochRecord
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


TEMPLATE = "report.html.jinja"


@dataclass(frozen=True)
class Chart:
    """A figure, and the sentence above it."""

    title: str
    lead: str
    html: str


@dataclass(frozen=True)
class Part:
    """One search on the page: a run, or what a search on a proxy has carried to full length."""

    title: str
    note: str
    total: int  # trials that it is to have
    ended: int
    trials: Sequence[TrialResult]  # by rank
    names: dict[str, str]  # of the settings that vary, in full and as a column's title
    epochs: int
    winner: TrialResult | None
    baseline: TrialResult | None
    used: Utilisation | None
    steps: dict[str, str]
    charts: Sequence[Chart]

    @property
    def states(self) -> dict[str, int]:
        """How many trials are in each state."""
        return dict(Counter(t.state for t in self.trials))


def write_report(study: Study, run: SearchDir, out: Path | None = None) -> Path:
    """Writes the page of a run as it stands, one HTML file that loads nothing, and returns its path (default: RUN/report.html).

    Raises RunError where the file cannot be written.
    """
    out = out or run.report
    try:
        write_atomic(out, page(study, run))
    except OSError as error:
        raise RunError(
            f"{out}: the report cannot be written ({error.strerror}); give another file with: segtune report {run.path} --out"
        ) from None
    return out


def page(study: Study, run: SearchDir) -> str:
    """Returns the page of a run as HTML."""
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    if study.search.proxy and run.full.trials.exists():
        full = _part(
            "At full length",
            check(study, run, run.full).words,
            full_length_study(study, run),
            run.full,
        )
        parts = [full, _part("On the proxy", "", study, run)]
    else:
        parts = [_part("", "", study, run)]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"short": format_value, "miou": _percent}
    return environment.get_template(TEMPLATE).render(
        name=run.path.name,
        written=time.strftime("%d %B %Y, %H:%M"),
        config=study.config,
        parts=parts,
        plotlyjs=Markup(get_plotlyjs()),
    )


def _percent(miou: float | None) -> str:
    return "-" if miou is None else f"{100 * miou:.2f}"


def _part(title: str, note: str, study: Study, run: SearchDir) -> Part:
    trials = read_trials(run)
    winner, baseline = best_trial(trials), next((t for t in trials if t.number == 0), None)
    return Part(
        title=title,
        note=note,
        total=study.num_trials,
        ended=num_ended(trials),
        trials=ranked(trials),
        names=short_names(study.space.names),
        epochs=study.epochs,
        winner=winner,
        baseline=baseline,
        used=utilisation(run),
        steps=next_steps(run, study) if winner else {},
        charts=list(_charts(study, run, trials, winner, baseline)),
    )


def _charts(
    study: Study,
    run: SearchDir,
    trials: Sequence[TrialResult],
    winner: TrialResult | None,
    baseline: TrialResult | None,
) -> Iterator[Chart]:
    """Yields the figures that there is something to draw of."""
    from segtune.reporting import charts

    epochs = {trial.id: validated_epochs(trial, trial.read_verdict()) for trial in run.trial_dirs()}
    scores = {trial: list(miou_by_epoch(records).items()) for trial, records in epochs.items()}
    if any(scores.values()):
        yield Chart(
            "Learning curves",
            "Validated mIoU of every trial, by how it ended.",
            _html(charts.curves(trials, scores)),
        )
    if study.space.dimensions and any(t.params and t.miou is not None for t in trials):
        lead = "Best mIoU of every trial over each setting that varies. The star is the best, a cross is a trial that ended badly."
        yield Chart("Settings", lead, _html(charts.settings(trials, study.space.dimensions)))
    config, won = (_class_iou(epochs, t) for t in (baseline, winner))
    if config and won and baseline is not winner:
        lead = "IoU in the best epoch of the config itself and of the winner, most gained first, of classes that are there or predicted."
        if len(won) > charts.MOST_CLASSES:
            lead += f" Of the {len(won)} these {charts.MOST_CLASSES} differ most."
        yield Chart(
            "Classes", lead, _html(charts.classes(_class_names(study, len(won)), config, won))
        )
    if spent := timeline(run):
        lead = (
            "What ran when, on each place for trials at the same time. Colour is training and validation; grey is a trial that starts, "
            "writes a checkpoint, or did not end its epoch; on white there was none."
        )
        yield Chart(
            "Workers' time",
            lead,
            _html(charts.workers_time(spent, {t.id: t.state for t in trials})),
        )


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


def _class_names(study: Study, number: int) -> Sequence[str]:
    """Returns the names of the classes, or numbers where the data set is not on this machine, or is another one by now."""
    from segtune.data.layouts import class_names

    with contextlib.suppress(DataError, OSError, UnicodeError):
        names = class_names(study.config.data)
        if len(names) == number:
            return names
    return [f"class {label}" for label in range(number)]


def _html(figure: Figure) -> str:
    from markupsafe import Markup

    return Markup(
        figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            config={"displayModeBar": False, "responsive": True},
        )
    )
