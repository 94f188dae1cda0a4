"""The page of a search run: one HTML file that loads nothing."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segtune.checks.forecast_outcome import compare_with_outcome
from segtune.checks.search_limits import read_end
from segtune.errors import RunError
from segtune.reporting.forecast_lines import outcome_caption, outcome_table
from segtune.reporting.format import (
    baseline_note,
    measured_columns,
    next_steps,
    num_ended,
    short_names,
)
from segtune.reporting.html_template import html_template
from segtune.reporting.pictures import Confusion, Pictures, read_confusion, read_pictures
from segtune.reporting.report_charts import Chart, mattered_charts, part_charts
from segtune.reporting.rung_lines import CAPTION as RUNG_CAPTION
from segtune.reporting.rung_lines import rung_lines
from segtune.reporting.summary import (
    Cause,
    causes,
    commands,
    environment_rows,
    reproduction,
    summary,
)
from segtune.reporting.what_mattered import mattered_record
from segtune.runs.atomic import write_atomic
from segtune.runs.pareto import pareto_front
from segtune.runs.records import NetworkProfile
from segtune.runs.results import TrialResult, best_trial, ranked
from segtune.runs.rundir import SearchDir
from segtune.runs.timeline import Utilisation, utilisation
from segtune.tuning.confirm_study import trial_reader
from segtune.tuning.proxy_check import check, full_length_study
from segtune.tuning.study import Study

log = logging.getLogger(__name__)

TEMPLATE = "report.html.jinja"


@dataclass(frozen=True)
class Mattered:
    """What mattered in the search: the record, and what its tables show, in words."""

    record: Mapping[str, Any]  # as in RUN/what_mattered.json
    charts: Sequence[Chart]  # none if there are too few trials
    pairs: str  # empty if there are not two settings with an importance
    unhealthy: str  # empty if no trial ended unhealthy


@dataclass(frozen=True)
class Part:
    """One search on the page. A search on a proxy has a second one, its trials at full length."""

    title: str  # empty if the page has one part only
    summary: Sequence[str]  # sentences
    notes: Sequence[str]  # sentences below the cards
    commands: Mapping[str, str]  # what it does, and the command
    num_trials: int  # that the search is to have
    trials: Sequence[TrialResult]  # by rank
    names: Mapping[str, str]  # of the searched settings: the dotted name, and the column's title
    epochs: int  # of a trial at full length
    best: TrialResult | None
    front: Sequence[TrialResult]  # the best mIoU first; empty unless there are several objectives
    measured: Mapping[str, Callable[[NetworkProfile | None], str]]  # columns, by title
    baseline: TrialResult | None  # trial 0, the config itself
    utilisation: Utilisation | None
    files: Mapping[str, str]  # of the search run, and the commands that show them
    forecast: Sequence[tuple[str, str, str, str]]  # beside the outcome; empty before the end
    forecast_caption: str
    rungs: Sequence[Sequence[str]]  # rows of the table; empty if no rung can be judged
    causes: Sequence[Cause]
    pictures: Pictures | None  # None for a confirmation, and before there is a best trial
    confusion: Confusion | None
    charts: Sequence[Chart]
    rung_caption: str = field(default=RUNG_CAPTION)

    @property
    def num_ended(self) -> int:
        """How many trials have ended."""
        return num_ended(self.trials)

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
        # The name of an image may have bytes that are no UTF-8.
        write_atomic(out, page(study, run, mattered).encode(errors="replace"))
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
    parts = _parts(study, run)
    return html_template(TEMPLATE).render(
        name=run.path.name,
        written=time.strftime("%d %B %Y, %H:%M"),
        config=study.config,
        parts=parts,
        mattered=_mattered(study, run, mattered) if mattered else None,
        environment=environment_rows(run),
        reproduction=reproduction(run),
    )


def _mattered(study: Study, run: SearchDir, record: Mapping[str, Any]) -> Mattered:
    from segtune.checks.what_mattered import pairs_words, unhealthy_words

    return Mattered(
        record=record,
        charts=list(mattered_charts(study, run, record)),
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
    trials = trial_reader(run).read()
    best = best_trial(trials)
    baseline = next((trial for trial in trials if trial.number == 0), None)
    front = pareto_front(trials, study.search.objectives) if study.search.has_front else []
    has_winner = best is not None and not run.confirms
    return Part(
        title=title,
        summary=summary(study, run, trials, best),
        notes=[words for words in (note, *_ends(run), baseline_note(study, trials)) if words],
        commands=commands(study, run, trials, best),
        num_trials=study.num_trials,
        trials=ranked(trials),
        names=short_names(study.space.names),
        epochs=study.epochs,
        best=best,
        front=front,
        measured=measured_columns(trials),
        baseline=baseline,
        utilisation=utilisation(run),
        files=next_steps(study, run) if has_winner else {},
        forecast=outcome_table(compare_with_outcome(study, run)),
        forecast_caption=outcome_caption(run),
        rungs=[rung.cells for rung in rung_lines(study, run)],
        causes=causes(run, trials),
        pictures=read_pictures(run, best) if has_winner else None,
        confusion=read_confusion(run, best),
        charts=list(part_charts(study, run, trials, front)),
    )


def _ends(run: SearchDir) -> Iterator[str]:
    """Yield why the search has ended before its last trial, if a limit has ended it."""
    if end := read_end(run):
        way_out = "" if end.options else f"; {end.way_out}"  # otherwise, a command says how
        yield f"The search has ended before its last trial: {end.sentence}{way_out}."
