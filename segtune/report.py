"""`segtune report RUN`: one page of a run that needs no network: winner, workers' time, curves, settings, and how each trial ended."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from segtune.carry import carried_study, check
from segtune.cli import run_command
from segtune.errors import DataError
from segtune.results import TrialResult, best, ranked, read_trials, scored_rows
from segtune.rundir import RunDir, write_atomic
from segtune.study import Study, load_study
from segtune.table import ended, next_commands, short, short_names
from segtune.utilisation import Utilisation, timeline, utilisation

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
    trials: Sequence[TrialResult]  # by rank
    names: dict[str, str]  # of the settings that vary, in full and as a column's title
    epochs: int
    winner: TrialResult | None
    baseline: TrialResult | None
    used: Utilisation | None
    charts: Sequence[Chart]
    note: str = ""

    @property
    def states(self) -> dict[str, int]:
        """How many trials are in each state."""
        return dict(Counter(t.state for t in self.trials))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="segtune report", description="Write the page of a run, also while it runs.")
    parser.add_argument("run", help="folder of the run, for example runs/loss_weights-1")
    parser.add_argument("--out", metavar="FILE", help="file to write (default: RUN/report.html)")
    arguments = parser.parse_args(argv)
    return run_command(lambda: _report(arguments))


def _report(arguments: argparse.Namespace) -> int:
    run = RunDir.open(arguments.run)
    print(f"report: {write_report(load_study(run.study), run, Path(arguments.out) if arguments.out else None)}")
    return 0


def write_report(study: Study, run: RunDir, out: Path | None = None) -> Path:
    """Writes the page of a run as it stands, one HTML file that loads nothing, and returns its path (default: RUN/report.html)."""
    out = out or run.report
    write_atomic(out, page(study, run))
    return out


def page(study: Study, run: RunDir) -> str:
    """Returns the page of a run as HTML."""
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    parts = [_part("", study, run)]
    if study.search.proxy and run.full.trials.exists():
        parts[0] = _part("On the proxy", study, run)
        parts.insert(0, _part("At full length", carried_study(study, run), run.full, check(study, run, run.full).words))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"short": short, "miou": _percent}
    return environment.get_template(TEMPLATE).render(
        name=run.path.name,
        written=time.strftime("%d %B %Y, %H:%M"),
        done=ended(parts[-1].trials),
        total=study.num_trials,
        config=study.config,
        commands=next_commands(run, study) if parts[0].winner else {},
        parts=parts,
        plotlyjs=Markup(get_plotlyjs()),
    )


def _percent(miou: float | None) -> str:
    return "-" if miou is None else f"{100 * miou:.2f}"


def _part(title: str, study: Study, run: RunDir, note: str = "") -> Part:
    trials = read_trials(run)
    winner = best(trials)
    baseline = next((t for t in trials if t.number == 0), None)
    charts = [Chart(head, lead, _html(figure)) for head, lead, figure in _figures(study, run, trials, winner, baseline)]
    names = short_names(study.space.names)
    return Part(title, ranked(trials), names, study.epochs, winner, baseline, utilisation(run), charts, note)


def _figures(
    study: Study, run: RunDir, trials: Sequence[TrialResult], winner: TrialResult | None, baseline: TrialResult | None
) -> list[tuple[str, str, Figure]]:
    """Returns title, lead and figure of what there is something to draw of."""
    from segtune import charts

    rows = {trial.id: scored_rows(trial, trial.read_verdict()) for trial in run.trial_dirs()}
    scores = {trial: [(row["epoch"], row["miou"]) for row in told] for trial, told in rows.items()}
    found = []
    if any(scores.values()):
        found.append(("Learning curves", "Validated mIoU of every trial, by how it ended.", charts.curves(trials, scores)))
    if study.space.dimensions and any(t.params and t.miou is not None for t in trials):
        lead = "Best mIoU of every trial over each setting that varies. The star is the best, a cross is a trial that ended badly."
        found.append(("Settings", lead, charts.settings(trials, study.space.dimensions)))
    if winner and baseline and winner.number and baseline.miou is not None:
        pair = [next(row["class_iou"] for row in rows[t.id] if row["epoch"] == t.best_epoch) for t in (baseline, winner)]
        lead = "IoU of each class in the best epoch of the config itself and of the winner, most gained first."
        found.append(("Classes", lead, charts.classes(_class_names(study, len(pair[0])), *pair)))
    if spans := timeline(run):
        lead = "What ran when, on each place for trials at the same time. White is time that nobody used."
        found.append(("Workers' time", lead, charts.workers_time(spans, {t.id: t.state for t in trials})))
    return found


def _class_names(study: Study, number: int) -> Sequence[str]:
    """Returns the names of the classes, or numbers where the data set is not on this machine, or is another one by now."""
    from segtune.data.layouts import class_names

    with contextlib.suppress(DataError):
        names = class_names(study.config.data)
        if len(names) == number:
            return names
    return [f"class {label}" for label in range(number)]


def _html(figure: Figure) -> str:
    from markupsafe import Markup

    return Markup(figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False, "responsive": True}))


if __name__ == "__main__":
    raise SystemExit(main())
