"""After a search on a proxy: some trials at full length, and whether the proxy had ranked them as they come out."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from segtune.reporting.format import (
    format_duration,
    format_value,
    next_steps,
    num_ended,
    short_names,
)
from segtune.runs.results import RUNNING, TrialReader, TrialResult, best_trial, ranked, read_trials
from segtune.runs.rundir import SearchDir
from segtune.runs.timeline import utilisation
from segtune.tuning.proxy_check import check, full_length_study
from segtune.tuning.study import Study


def print_outcome(study: Study, run: SearchDir, console: Console) -> None:
    """Prints the trials of a run and, where it was on a proxy, those of full length and what the proxy was worth."""
    print_summary(run, study, console)
    if study.search.proxy and run.full.trials.exists():
        console.print(
            f"at full length ({run.full.path}):", markup=False, highlight=False, soft_wrap=True
        )
        print_summary(run.full, full_length_study(study, run), console)
        console.print(
            check(study, run, run.full).words, markup=False, highlight=False, soft_wrap=True
        )


COLOURS = {
    "completed": "green",
    "pruned": "yellow",
    "unhealthy": "red",
    "failed": "red",
    "interrupted": "magenta",
    RUNNING: "cyan",
}
REFRESH_S = 1.0
# So many times as long as a look at all trials took, nobody looks.
REST = 20


def wide_console() -> Console:
    """Returns a console as wide as the terminal, or wide enough for a table where the output goes to a file."""
    console = Console()
    return console if console.is_terminal else Console(width=180)


def trials_table(
    trials: Sequence[TrialResult], names: Sequence[str], epochs: int, limit: int | None = None
) -> Table:
    """Returns the trials by rank: best mIoU first, with epoch, status and parameters."""
    table = Table(header_style="bold", expand=False)
    for title in ("rank", "trial", "mIoU", "epoch", "status"):
        table.add_column(title, justify="left" if title == "status" else "right")
    for title in short_names(names).values():
        table.add_column(title, justify="right", overflow="fold")
    order = ranked(trials)
    for rank, trial in enumerate(order[:limit], 1):
        score = f"{100 * trial.miou:.2f}" if trial.miou is not None else "-"
        status = Text(
            trial.state + (f" ({trial.kind})" if trial.kind else ""),
            style=COLOURS.get(trial.state, ""),
        )
        name = trial.id + (" *" if trial.number == 0 else "")
        values = [format_value(trial.params[n]) if n in trial.params else "" for n in names]
        table.add_row(
            str(rank) if trial.healthy else "-",
            name,
            score,
            f"{trial.epoch}/{epochs}",
            status,
            *values,
        )
    if limit and len(order) > limit:
        table.caption = f"and {len(order) - limit} more"
    return table


class Progress:
    """How far a search is: trials that have ended, and the time left at the pace so far."""

    def __init__(self, study: Study, ended_before: int) -> None:
        """`ended_before` trials of an earlier session do not count for the pace."""
        self.total, self.ended_before, self.start = study.num_trials, ended_before, time.monotonic()

    def seconds_left(self, ended: int) -> float | None:
        """Returns the estimate, or None before the first trial of this session has ended."""
        fresh = ended - self.ended_before
        return (time.monotonic() - self.start) / fresh * (self.total - ended) if fresh > 0 else None

    def line(self, ended: int) -> str:
        """Returns the progress in words."""
        left = self.seconds_left(ended)
        passed = time.monotonic() - self.start
        return f"{ended} of {self.total} trials, {format_duration(passed)} so far" + (
            f", about {format_duration(left)} left" if left else ""
        )


@contextmanager
def live_table(run: SearchDir, study: Study, console: Console) -> Iterator[None]:
    """Shows the run while the block runs: a table that is redrawn in a terminal, otherwise a line per event."""
    progress = Progress(study, num_ended(read_trials(run)))
    stop = threading.Event()
    show = _redraw if console.is_terminal else _print_events
    thread = threading.Thread(target=show, args=(run, study, progress, console, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _pause(began: float) -> float:
    """Returns for how long to wait after a look that began then: of thousands of trials, one takes a part of a second."""
    return max(REFRESH_S, REST * (time.monotonic() - began))


def _redraw(
    run: SearchDir, study: Study, progress: Progress, console: Console, stop: threading.Event
) -> None:
    reader = TrialReader(run)

    def view() -> RenderableType:
        trials = reader.read()
        bar = ProgressBar(total=progress.total, completed=num_ended(trials), width=40)
        table = trials_table(
            trials, study.space.names, study.epochs, limit=max(5, console.height - 10)
        )
        return Group(table, bar, Text(progress.line(num_ended(trials))))

    with Live(view(), console=console, auto_refresh=False, transient=True) as live:
        began = time.monotonic()
        while not stop.wait(_pause(began)):
            began = time.monotonic()
            live.update(view(), refresh=True)


def _print_events(
    run: SearchDir, study: Study, progress: Progress, console: Console, stop: threading.Event
) -> None:
    reader = TrialReader(run)
    told = {t.number for t in reader.read() if t.state not in (RUNNING, "interrupted")}
    began = time.monotonic()
    while True:
        last = stop.wait(_pause(began))
        began = time.monotonic()
        trials = reader.read()
        for trial in trials:
            if trial.state != RUNNING and trial.number not in told:
                told.add(trial.number)
                console.print(
                    _event(trial, study) + f" [{progress.line(num_ended(trials))}]",
                    markup=False,
                    highlight=False,
                    soft_wrap=True,
                )
        if last:
            return


def _event(trial: TrialResult, study: Study) -> str:
    score = f"mIoU {100 * trial.miou:.2f}" if trial.miou is not None else "no mIoU"
    names = short_names(study.space.names)
    values = ", ".join(f"{names[n]} {format_value(v)}" for n, v in trial.params.items())
    return f"trial {trial.id} {trial.state} at epoch {trial.epoch}: {score}; {values}" + (
        f" -- {trial.reason}" if trial.reason else ""
    )


def print_summary(run: SearchDir, study: Study, console: Console) -> None:
    """Prints the final table, the ends that need a word, the winner against trial 0, and what to do with it."""
    trials = read_trials(run)
    console.print(trials_table(trials, study.space.names, study.epochs))
    for trial in trials:
        if trial.reason:
            console.print(
                f"trial {trial.id} {trial.state}: {trial.reason}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
    winner = best_trial(trials)
    if not winner or winner.miou is None:
        console.print("no healthy trial: nothing to export", style="red")
        return
    baseline = next((t for t in trials if t.number == 0 and t.miou is not None), None)
    against = (
        f"; the config itself (trial 0, *): {100 * baseline.miou:.2f}"
        if baseline and baseline.miou is not None
        else ""
    )
    lines = [
        f"best: trial {winner.id}, mIoU {100 * winner.miou:.2f} at epoch {winner.best_epoch}{against}",
        *(f"{what + ':':11} {step}" for what, step in next_steps(run, study).items()),
        *([f"workers:    {used.summary}"] if (used := utilisation(run)) else []),
    ]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
