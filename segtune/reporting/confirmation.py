"""A confirmation in words: the table of fresh seeds, and one line wherever a winner is named."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

from segtune.reporting.format import format_miou
from segtune.reporting.terminal import SearchPrinter, labelled, live_table, print_lines
from segtune.runs.rundir import SearchDir
from segtune.tuning.confirm_study import ConfirmPlan
from segtune.tuning.study import Study


class ConfirmPrinter(SearchPrinter):
    """Shows the training runs of a confirmation. Has the methods of `api.SearchEvents`."""

    def on_plan(self, study: Study, run: SearchDir, plan: ConfirmPlan) -> None:
        """Print which trials are trained again, with which seeds, and for how long."""
        names = ", ".join(trial.id for trial in plan.candidates)
        trials = "trials" if len(plan.candidates) > 1 else "trial"
        seeds = ", ".join(map(str, plan.seeds))
        print_lines(
            self.console,
            labelled("confirm", f"the config itself and {trials} {names}"),
            labelled("fresh seeds", f"{seeds} (the search trained with {study.config.seed})"),
            labelled("budget", budget(study, run)),
        )

    def on_placement(self, study: Study, placement: str, dashboard_url: str) -> None:
        """Print how many training runs there are in all, and how many run at the same time."""
        print_lines(self.console, labelled("trainings", f"{study.num_trials}, {placement}"))

    @contextmanager
    def watching(self, study: Study, run: SearchDir) -> Iterator[None]:
        """Show the training runs while the block runs."""
        print_lines(self.console, labelled("folder", str(run.path)))
        with live_table(study, run, self.console):
            yield


def budget(study: Study, run: SearchDir) -> str:
    """Return the length of each training run in words."""
    epochs = f"{study.epochs} epoch{'s' if study.epochs > 1 else ''} each"
    if not study.search.proxy:
        return f"{epochs}, as in the search"
    command = shlex.join(["segtune", "confirm", str(run.full.path)])
    return f"{epochs}, at the size of the search's proxy; at full length: {command}"


def print_confirmation(record: Mapping[str, Any], run: SearchDir, console: Console) -> None:
    """Print the table of a confirmation, the test, and the verdict."""
    console.print(confirmation_table(record))
    for row in (record["baseline"], *record["candidates"]):
        for seed, problem in row["problems"].items():
            print_lines(console, f"trial {row['trial']}, seed {seed}: {problem}")
    lines = [labelled("test", _test_line(record)), labelled("result", record["sentence"])]
    if advised := _advised(record):
        lines.append(labelled("more seeds", _advice(record, advised, run)))
    lines.append(labelled("record", str(run.confirmation)))
    print_lines(console, *lines)


def _test_line(record: Mapping[str, Any]) -> str:
    noise = record["test"]["noise"]
    size = f"; one training run varies by {100 * noise:.2f} mIoU" if noise is not None else ""
    looks = len(record["looks"])
    number = f"; look {looks} at these trials, so p is multiplied by {2 ** (looks - 1)}"
    return f"{record['test']['name']}{size}{number if looks > 1 else ''}"


def _advised(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the candidate that more seeds may show to be better: the one with the largest gain.

    None if a candidate is better already, or if no number of seeds is advised.
    """
    rows = record["candidates"]
    tested = [row for row in rows if row["gain"] is not None]
    if not tested or any(row["outcome"] == "better" for row in rows):
        return None
    best = max(tested, key=lambda row: row["gain"])
    return best if best["more_seeds"] else None


def _advice(record: Mapping[str, Any], row: Mapping[str, Any], run: SearchDir) -> str:
    total = len(record["seeds"]) + row["more_seeds"]
    words = ["segtune", "confirm", str(run.path), "--top", str(len(record["candidates"]))]
    command = shlex.join([*words, "--seeds", str(total)])
    return f"{row['more_seeds']} more may show that trial {row['trial']} is better: {command}"


def confirmation_table(record: Mapping[str, Any]) -> Table:
    """Return a row for the config itself and for each candidate."""
    table = Table(header_style="bold", expand=False)
    titles = ("trial", "search", "fresh mean", "std", "per seed", "difference", "p", "verdict")
    for title in titles:
        table.add_column(title, justify="left" if title == "verdict" else "right")
    for row in (record["baseline"], *record["candidates"]):
        scores = " ".join(format_miou(score) for score in row["scores"].values())
        star = " *" if row is record["baseline"] else ""
        cells = [format_miou(row[key]) for key in ("search_miou", "mean", "std")]
        verdict = row.get("outcome", "the config itself")
        table.add_row(row["trial"] + star, *cells, scores, *_tested(row), verdict)
    return table


def _tested(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return the cells of the difference and of p; empty for what was not tested."""
    from segtune.checks.confirm_record import format_p

    if row.get("gain") is None:
        return "", ""
    return f"{100 * row['gain']:+.2f} ± {100 * row['margin']:.2f}", format_p(row["p"])
