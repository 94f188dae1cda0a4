"""A search run in the terminal: a live table while it runs, a summary when it has ended.

Reads only the files of the search run. The HTML page is `html.py`.
"""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from segtune.checks.confirmed_best import confirmation_line
from segtune.checks.forecast_record import read_forecast
from segtune.checks.search_limits import limit_words
from segtune.reporting.dashboard import dashboard_lines
from segtune.reporting.forecast_lines import forecast_summary, left_words
from segtune.reporting.format import (
    baseline_note,
    format_duration,
    format_miou,
    format_profile,
    format_value,
    has_ended,
    next_steps,
    num_ended,
    reason_of,
    retrained_line,
    short_names,
    tensorboard_command,
)
from segtune.reporting.rung_lines import rung_lines
from segtune.reporting.trials_table import trials_table
from segtune.runs.pareto import pareto_front
from segtune.runs.results import (
    RUNNING,
    TrialReader,
    TrialResult,
    best_trial,
    miou_by_epoch,
    read_trials,
    validated_epochs,
)
from segtune.runs.rundir import SearchDir, TrialDir, search_of, search_runs_in
from segtune.runs.timeline import utilisation
from segtune.tuning.confirm_study import trial_reader
from segtune.tuning.proxy_check import check, full_length_study
from segtune.tuning.study import Study
from segtune.tuning.warm_start import WarmStart

REFRESH_S = 1.0
# Wait at least 20 times as long as the last scan of all trials took, so that scanning uses at most
# 5 % of the time. A scan of thousands of trials takes a part of a second.
PAUSE_PER_SCAN = 20
# Width of a table that is not printed to a terminal, in characters.
FILE_WIDTH = 180
# Lines below the live table: its head and frame, the progress bar and the progress in words.
LINES_AROUND_TABLE = 10
MIN_TABLE_ROWS = 5
LABEL_WIDTH = 13


def wide_console() -> Console:
    """Return a console as wide as the terminal, or as FILE_WIDTH if the output goes to a file."""
    console = Console()
    return console if console.is_terminal else Console(width=FILE_WIDTH)


def print_lines(console: Console, *lines: str) -> None:
    """Print text as it is: no markup, and no line breaks that would spoil a copied command."""
    console.print(*lines, sep="\n", markup=False, highlight=False, soft_wrap=True)


def labelled(label: str, text: str) -> str:
    """Return a line that starts with a label, aligned with the other lines of the summary."""
    return f"{label + ':':{LABEL_WIDTH}}{text}"


def print_outcome(study: Study, run: SearchDir, console: Console) -> None:
    """Print the summary of a search run.

    After a search on a proxy, also print the trials at full length and the comparison of ranks.
    """
    print_summary(study, run, console)
    if study.search.proxy and run.full.trials.exists():
        print_lines(console, f"trials at full length ({run.full.path}):")
        print_summary(full_length_study(study, run), run.full, console)
        print_lines(console, check(study, run, run.full).words)
    if retrained := retrained_line(run):
        print_lines(console, labelled("retrained", retrained))


def print_summary(study: Study, run: SearchDir, console: Console) -> None:
    """Print the table of trials, the reasons of those that went wrong, and the best trial."""
    trials = trial_reader(run).read()
    console.print(trials_table(trials, study.space.names, study.epochs, console.width))
    for trial in trials:
        if reason := reason_of(trial):
            state = f" {trial.state}:" if trial.reason else ""
            print_lines(console, f"trial {trial.id}{state} {reason}")
    for label, words in limit_words(study, run).items():
        print_lines(console, labelled(label, words))
    if note := baseline_note(study, trials):
        console.print(note, style="yellow", markup=False, highlight=False, soft_wrap=True)
    if study.search.has_front:
        _print_front(pareto_front(trials, study.search.objectives), run, console)
    winner = best_trial(trials)
    if not winner:
        _print_no_winner(trials, console)
        return
    if run.confirms:  # its trials differ in the seed, and the best seed is luck
        command = shlex.join(["segtune", "status", str(run.confirms.path)])
        print_lines(console, labelled("confirms", f"{run.confirms.path}; the verdict: {command}"))
        return
    lines = [labelled("best", _best_line(trials, winner))]
    lines.append(labelled("confirmed", confirmation_line(run, winner)))
    lines += [labelled(label, step) for label, step in next_steps(study, run).items()]
    if used := utilisation(run):
        lines.append(labelled("workers", used.summary))
    lines += [labelled(rung.label, rung.sentence) for rung in rung_lines(study, run)]
    print_lines(console, *lines)


def _print_no_winner(trials: Sequence[TrialResult], console: Console) -> None:
    if any(trial.healthy and not trial.is_judged for trial in trials):
        print_lines(
            console,
            "no completed trial keeps the guards, so there is no best config; guards on classes "
            "judge only completed trials",
        )
    elif all(trial.state in (RUNNING, "interrupted") for trial in trials):
        print_lines(console, "no trial has been validated yet, so there is no best config")
    elif any(trial.broken_guards for trial in trials):
        console.print(
            "every healthy trial breaks a guard, so there is no best config; change search.guards "
            "in a new study, or export a trial in spite of it: segtune export RUN --trial N",
            style="red",
        )
    else:
        console.print("no healthy trial, so there is no best config", style="red")


def _print_front(front: Sequence[TrialResult], run: SearchDir, console: Console) -> None:
    """Print the Pareto front: no trial is better than one of these in every objective."""
    if not front:
        return
    rows = [
        f"  trial {trial.id}: mIoU {format_miou(trial.miou)}, {format_profile(trial.profile)}"
        for trial in front
    ]
    head = f"{len(front)} trial(s) on the Pareto front, configs in {run.pareto}"
    print_lines(console, labelled("front", head), *rows)


def print_forecast(study: Study, run: SearchDir, console: Console) -> None:
    """Print how long a search still takes, or its forecast beside the outcome."""
    for label, words in forecast_summary(study, run).items():
        print_lines(console, labelled(label, words))
    if study.search.proxy and run.full.trials.exists():
        of_full = forecast_summary(full_length_study(study, run), run.full)
        for label, words in of_full.items():
            print_lines(console, labelled(label, f"at full length: {words}"))


def print_runs(folder: Path, console: Console) -> None:
    """Print a table of the search runs in a folder."""
    table = Table("search run", "trials", "ended", "best mIoU", header_style="bold")
    for name in search_runs_in(folder):
        trials = read_trials(SearchDir(folder / name))
        winner = best_trial(trials)
        miou = format_miou(winner.miou if winner else None)
        table.add_row(Text(name), str(len(trials)), str(num_ended(trials)), miou)
    console.print(table)
    print_lines(console, labelled("one of them", f"segtune status {shlex.quote(str(folder))}/NAME"))


def print_training(trial: TrialDir, console: Console) -> None:
    """Print how far a training run or a trial is, its best validation, and how it ended."""
    verdict = trial.read_verdict()
    scores = miou_by_epoch(validated_epochs(trial, verdict))
    best = max(scores, key=scores.__getitem__, default=0)
    lines = [labelled("run", str(trial.path))]
    if verdict is None:
        lines.append(labelled("state", f"running, or killed; epoch {trial.progress()[0]} is done"))
    else:
        lines.append(labelled("state", f"{verdict.state} at epoch {verdict.epoch}"))
        lines += [labelled("reason", verdict.reason)] if verdict.reason else []
    miou = f"mIoU {format_miou(scores[best])} at epoch {best}" if scores else "no validation yet"
    lines += [labelled("best", miou), labelled("config", str(trial.config))]
    if (run := search_of(trial.path)) is not None:
        command = shlex.join(["segtune", "status", str(run.path)])
        lines.append(labelled("search run", f"{run.path}, see {command}"))
    print_lines(console, *lines)


def _best_line(trials: Sequence[TrialResult], winner: TrialResult) -> str:
    """Return the best trial in words, compared with the config itself (trial 0)."""
    line = f"trial {winner.id}, mIoU {format_miou(winner.miou)} at epoch {winner.best_epoch}"
    for trial in trials:
        if trial.number == 0 and trial.miou is not None:
            line += f"; the config itself (trial 0, *): {format_miou(trial.miou)}"
    return line


class SearchPrinter:
    """Shows a search in the terminal while it runs. Has the methods of `api.SearchEvents`."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def on_warm_start(self, earlier: WarmStart) -> None:
        """Print how much the search takes over from earlier search runs."""
        print_lines(self.console, labelled("warm start", earlier.summary))

    def on_placement(self, study: Study, placement: str, dashboard_url: str) -> None:
        """Print how many trials run at the same time, and how to reach the Ray dashboard."""
        lines = {"trials": f"{study.num_trials}, {placement}", **dashboard_lines(dashboard_url)}
        print_lines(self.console, *(labelled(label, text) for label, text in lines.items()))

    @contextmanager
    def watching(self, study: Study, run: SearchDir) -> Iterator[None]:
        """Print the folder of the search run, then show its trials as they run."""
        watch = [shlex.join(["segtune", "status", str(run.path)])]
        if "tensorboard" in study.config.log.to:
            watch.append(tensorboard_command(run))
        label = "noise floor" if run.confirms else "search run"
        print_lines(
            self.console,
            labelled(label, str(run.path)),
            labelled("watch it", ", ".join(watch)),
        )
        with live_table(study, run, self.console):
            yield


class Progress:
    """How many trials have ended, and the time left: by the forecast, or else at this pace."""

    def __init__(
        self, study: Study, run: SearchDir, ended_before: int, began: float | None = None
    ) -> None:
        """Start the clock. `ended_before` trials of earlier sessions do not count for the pace.

        `began` is the Unix time at which the session started; None: now.
        """
        self.num_trials = study.num_trials
        self.run = run
        self.began = time.time() if began is None else began
        self.before_s = max(0.0, time.time() - self.began)  # of the session, before this clock
        self.ended_before = ended_before
        self.start = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the clock was started."""
        return time.monotonic() - self.start

    def seconds_left(self, ended: int) -> float | None:
        """Return the estimate, or None before the first trial of this session has ended."""
        ended_now = ended - self.ended_before
        if ended_now <= 0:
            return None
        return self.elapsed_s / ended_now * (self.num_trials - ended)

    def line(self, ended: int) -> str:
        """Return the progress in words."""
        so_far = format_duration(self.before_s + self.elapsed_s)
        line = f"{ended} of {self.num_trials} trials, {so_far} so far"
        if words := self.words_left(ended):
            line += f", {words}"
        return line

    def words_left(self, ended: int) -> str:
        """Return the time left in words; empty if it is not known, or if all trials have ended."""
        record = read_forecast(self.run) if ended < self.num_trials else None
        # The forecast of an earlier session counts from the end of that session.
        if record and record.latest.written >= self.began and (words := left_words(record.latest)):
            return words
        left = self.seconds_left(ended)
        return f"about {format_duration(left)} left" if left else ""


@contextmanager
def live_table(
    study: Study,
    run: SearchDir,
    console: Console,
    *,
    began: float | None = None,
    refresh_s: float = REFRESH_S,
) -> Iterator[None]:
    """Show the search run while the block runs.

    A terminal shows a table that is redrawn, at most every `refresh_s` seconds. Other outputs get a
    line for each trial that ends. `began` is the Unix time at which the session started, if it is
    not now.
    """
    reader = trial_reader(run)
    ended = {trial.number: trial.epoch for trial in reader.read() if has_ended(trial)}
    progress = Progress(study, run, ended_before=len(ended), began=began)
    stop = threading.Event()
    if console.is_terminal:
        show = partial(_redraw, study, reader, progress, console, stop, refresh_s)
    else:
        show = partial(
            _print_events, study, reader, progress, console, stop, refresh_s, printed=ended
        )
    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _pause_s(scan_start: float, refresh_s: float) -> float:
    """Return how many seconds to wait after a scan of all trials that began at `scan_start`."""
    return max(refresh_s, PAUSE_PER_SCAN * (time.monotonic() - scan_start))


def _redraw(
    study: Study,
    reader: TrialReader,
    progress: Progress,
    console: Console,
    stop: threading.Event,
    refresh_s: float,
) -> None:
    """Redraw the table until the search stops."""

    def view() -> RenderableType:
        trials = reader.read()
        ended = num_ended(trials)
        limit = max(MIN_TABLE_ROWS, console.height - LINES_AROUND_TABLE)
        table = trials_table(trials, study.space.names, study.epochs, console.width, limit)
        bar = ProgressBar(total=progress.num_trials, completed=ended, width=40)
        return Group(table, bar, Text(progress.line(ended)))

    scan_start = time.monotonic()
    with Live(view(), console=console, auto_refresh=False, transient=True) as live:
        while not stop.wait(_pause_s(scan_start, refresh_s)):
            scan_start = time.monotonic()
            live.update(view(), refresh=True)


def _print_events(
    study: Study,
    reader: TrialReader,
    progress: Progress,
    console: Console,
    stop: threading.Event,
    refresh_s: float,
    printed: dict[int, int],
) -> None:
    """Print a line for each trial that ends until the search stops.

    `printed` is the epoch of the last line of each trial. One that was paused has several lines.
    """
    scan_start = time.monotonic()
    stopped = False
    while not stopped:
        stopped = stop.wait(_pause_s(scan_start, refresh_s))
        # Once more after the stop: trials end with the search, or are interrupted by the stop.
        scan_start = time.monotonic()
        trials = reader.read()
        for trial in trials:
            if trial.state != RUNNING and printed.get(trial.number) != trial.epoch:
                printed[trial.number] = trial.epoch
                line = f"{_event(trial, study)} [{progress.line(num_ended(trials))}]"
                print_lines(console, line)


def _event(trial: TrialResult, study: Study) -> str:
    """Return a trial's end as one line."""
    score = "no mIoU" if trial.miou is None else f"mIoU {format_miou(trial.miou)}"
    names = short_names(study.space.names)
    values = ", ".join(f"{names[n]} {format_value(v)}" for n, v in trial.params.items())
    line = f"trial {trial.id} {trial.state} at epoch {trial.epoch}: {score}; {values}"
    reason = reason_of(trial)
    return f"{line} -- {reason}" if reason else line
